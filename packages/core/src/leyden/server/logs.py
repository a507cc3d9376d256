"""The server's log: lines of text, or JSON objects that name the rollout and the call that they are about."""

import json
import logging
from datetime import UTC, datetime
from typing import Literal

from leyden.gateway.caller import calling

__all__ = ["LogFormat", "set_up_logs"]

LogFormat = Literal["text", "json"]


class _JsonFormatter(logging.Formatter):
    """One object a line. What is logged while a model call is served carries its ids, whichever library says it."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        caller = calling.get()
        if caller is not None:
            line |= {"rollout": caller.rollout_id, "attempt": caller.attempt, "call": caller.call_id}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up_logs(format_: LogFormat, *, every_call: bool) -> None:
    """Send the log to standard error; `every_call` adds a line for each model call."""
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_JsonFormatter() if format_ == "json" else text)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("leyden").setLevel(logging.INFO if every_call else logging.WARNING)
