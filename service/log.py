"""Log lines are events with fields: one JSON object a line, or `event key=value …` for people.

`logging.getLogger("service").info("access", extra={"fields": {…}})` makes the line; this file only shapes and places
it.
"""

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, event, then the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return json.dumps(_fields(record), ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """The same fields for people; a trace follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and a trace if there is one."""
        fields = _fields(record)
        head = f"{fields.pop('time')} {fields.pop('level'):7} {fields.pop('event')}"
        trace = fields.pop("traceback", "")
        rest = "".join(f" {name}={_word(value)}" for name, value in fields.items())
        return head + rest + ("\n" + trace if trace else "")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return what a record says; a foreign one (Gunicorn's) has its text as `message`."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    fields = {"time": f"{moment}.{record.msecs:03.0f}Z", "level": record.levelname, "pid": record.process}
    own: Mapping[str, Any] | None = getattr(record, "fields", None)
    named = (
        {"event": record.getMessage(), **own}
        if own is not None
        else {"event": record.name, "message": record.getMessage()}
    )
    traceback = {"traceback": logging.Formatter().formatException(record.exc_info)} if record.exc_info else {}
    return {**fields, **named, **traceback}


def _word(value: Any) -> str:
    """Return a value as one word: quoted where it holds white space, quotes or control characters."""
    text = str(value)
    return text if text.isprintable() and text and not set(' "') & set(text) else json.dumps(text)


def formatter(style: str) -> logging.Formatter:
    """Return the formatter for `LOG_FORMAT`."""
    return JsonFormatter() if style == "json" else TextFormatter()


def configure(level: str, style: str) -> None:
    """Send what the web side logs to standard error; called once per process, by Gunicorn's configuration."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(style))
    logger = logging.getLogger("service")
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False
