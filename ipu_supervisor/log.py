"""The supervisor's log: one event with its fields per line, on stderr. JSON for machines, text for people."""

import json
import logging
import sys
import time
from typing import Any, Dict

_log = logging.getLogger("ipu_supervisor")


class _Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line: Dict[str, Any] = {"time": _timestamp(record), "level": record.levelname, "event": record.getMessage()}
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Text(logging.Formatter):
    """`time level event field=value …`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        fields = "".join(" {}={}".format(name, value) for name, value in getattr(record, "fields", {}).items())
        line = "{} {:7} {}{}".format(_timestamp(record), record.levelname, record.getMessage(), fields)
        return line + "\n" + self.formatException(record.exc_info) if record.exc_info else line


def _timestamp(record: logging.LogRecord) -> str:
    """Return the moment of a record, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + ".{:03.0f}Z".format(record.msecs)


def configure(level: str, form: str) -> None:
    """Send all logging of this process to stderr. Called once, by a `main`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    logging.basicConfig(level=level, handlers=[handler], force=True)


def event(name: str, level: int = logging.INFO, exc_info: bool = False, **fields: Any) -> None:
    """Log one event with its fields, and the traceback of the exception being handled if `exc_info`."""
    _log.log(level, name, exc_info=exc_info, extra={"fields": fields})
