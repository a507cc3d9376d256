"""Do the versions of a client and a server fit? Until 1.0 the first two numbers must be equal, from then on the first.

Unlike a version on every request, it is asked once, at the start: `GET /health` has it, without a key.
"""

from leyden.errors import WrongVersion

__all__ = ["check_version", "fits"]


def fits(ours: str, theirs: str) -> bool:
    """Whether two versions speak the same protocol."""
    return _protocol(ours) == _protocol(theirs)


def check_version(ours: str, theirs: str, url: str) -> None:
    """Nothing, if the server at `url` fits this client.

    Raises:
        WrongVersion: with both versions, and what to install.
    """
    if fits(ours, theirs):
        return
    wanted = ".".join(_protocol(theirs))
    raise WrongVersion(
        f"the server at {url} is leyden {theirs}, this is leyden {ours}; they do not fit: "
        f'`pip install "leyden=={wanted}.*"` here, or leyden {ours} on the server'
    )


def _protocol(version: str) -> list[str]:
    first, _, rest = version.partition(".")
    return [first, rest.partition(".")[0]] if first == "0" else [first]
