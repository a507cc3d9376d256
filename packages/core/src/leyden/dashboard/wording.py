"""Numbers, times and values in words, as the templates' filters."""

import json
import time
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import quote, urlsplit, urlunsplit

from leyden.said import content

__all__ = ["FILTERS", "host", "public"]

_UNITS = (("days", 86400), ("h", 3600), ("min", 60), ("s", 1))
_SECRET = ("key", "secret", "token", "password")


def number(value: float | None, digits: int = 3) -> str:
    """A figure of so many digits; a dash for none."""
    if value is None:
        return "–"
    if value and (abs(value) < 10**-digits or abs(value) >= 1e9):
        return f"{value:.1e}"
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.{digits}f}"


def signed(value: float) -> str:
    """With its sign, also above 0."""
    return f"{value:+.3f}"


def duration(seconds: float | None) -> str:
    """In the unit that reads best; a dash for none."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def moment(at: float | None) -> str:
    """A UNIX time in UTC."""
    return "–" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def ago(at: float | None) -> str:
    """How long ago a UNIX time is, in whole units."""
    if at is None:
        return "–"
    seconds = max(int(time.time() - at), 0)
    count, unit = next((seconds // size, unit) for unit, size in _UNITS if seconds >= 2 * size or size == 1)
    return f"{count} {unit} ago"


def figure(value: float) -> str:
    """To three digits that count."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def pretty(value: Any) -> str:
    """A string as it is, all else as indented JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)


def path(value: str) -> str:
    """An id as a part of an address."""
    return quote(value, safe="")


def host(url: str) -> str:
    """An address without a user's name and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def public(value: Any, name: str = "") -> Any:
    """The value with what may be a secret left out: strings under such a name, and users in addresses."""
    if isinstance(value, dict):
        known = cast("dict[str, Any]", value)
        return {key: public(inner, key) for key, inner in known.items()}
    if isinstance(value, list):
        return [public(inner, name) for inner in cast("list[Any]", value)]
    if isinstance(value, str) and value:
        if any(name.lower().endswith(word) for word in _SECRET):
            return "(not shown)"
        return host(value) if "://" in value and "@" in value else value
    return value


FILTERS = {
    "number": number,
    "signed": signed,
    "figure": figure,
    "duration": duration,
    "moment": moment,
    "ago": ago,
    "pretty": pretty,
    "path": path,
    "host": host,
    "said": content,
}
