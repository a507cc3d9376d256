"""Opening a port, with an error that says what to do about it, and the URL by which it is reached."""

import ipaddress
import socket
from urllib.parse import urlsplit

from leyden.errors import BadConfig

__all__ = ["is_loopback", "listen", "url_of"]


def listen(host: str, port: int, *, setting: str = "--port") -> socket.socket:
    """A listening socket; port 0 lets the system choose. `setting` is what the user changes to have another.

    Raises:
        BadConfig: the port is in use, or the host is no address of this machine.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise BadConfig(
            f"cannot listen on {host}:{port}: {error.strerror}; end what uses the port, or choose another with "
            f"{setting} (0 lets the system choose), on an address of this machine"
        ) from error


def url_of(listener: socket.socket, *, secure: bool = False) -> str:
    """http://HOST:PORT of a listening socket, or https."""
    scheme = "https" if secure else "http"
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def is_loopback(place: str) -> bool:
    """Whether only this machine reaches a host, or the host of a URL."""
    host = urlsplit(place).hostname or "" if "://" in place else place
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
