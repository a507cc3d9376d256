"""An exception in one line.

Unlike `str(error)` it never raises: an agent's exceptions may have a `__str__` that does.
"""

__all__ = ["exception_text"]


def exception_text(error: BaseException) -> str:
    """`Type: message`; what the message is replaced by if it cannot be had says so."""
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except Exception as fault:  # the capture boundary: the agent's own code
        return f"{name}: its text cannot be had, as its __str__ raised {type(fault).__name__}"
