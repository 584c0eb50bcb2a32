"""The format of log lines: `when level event key=value …`, or the same as one JSON object.

A log line is an event in the past tense and its fields: log.info("store_ended pid=%d", 2).
No line ever contains a session or a key.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime

_FIELD = re.compile(r"(\w+)=%")


def start(level: str, form: str) -> None:
    """Send log records to stderr as `form` (text or json)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if form == "json" else Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Their info lines are about themselves, not about the service.
    for name in ("uvicorn", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _when(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{int(record.msecs):03d}Z"


class Text(logging.Formatter):
    """Lines for people, each followed by its traceback, if any."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        line = f"{_when(record)} {record.levelname.lower()} {record.getMessage()}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class Json(logging.Formatter):
    """One JSON object per line: at, level, event, the fields, and `error` for a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        line: dict[str, object] = {"at": _when(record), "level": record.levelname.lower()}
        names = _FIELD.findall(str(record.msg))
        given = record.args if isinstance(record.args, tuple) else ()
        event = str(record.msg).split(" ", 1)[0]
        if names and len(names) == len(given) and event.isidentifier():
            line["event"] = event
            line |= {n: v if _plain(v) else str(v) for n, v in zip(names, given, strict=True)}
        else:
            line["event"] = record.getMessage()
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _plain(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))
