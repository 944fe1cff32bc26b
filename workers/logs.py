"""Logs on stderr: JSON where they are piped, readable on a terminal; Celery's go the same way.

Keys: `at`, `level`, `event`, `pool`, `task`, `message` (the row's id), `epoch`. Never an address, a
token or content: what looks like one is taken out here, whoever wrote it.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from tasks.names import POOLS

ADDRESS = "[address]"

# The part before the @ may be quoted (RFC 5321 4.1.2) and hold anything; %40 is an @ in a URL.
_ADDRESS = re.compile(
    r"""("[^"\n]{1,64}"|[\w.!#$%&'*+/=?^`{|}~-]+)(?:@|%40)([\w-]+(?:\.[\w-]+)*|\[[\da-fA-F.:]+\])"""
)
_URL_SECRET = re.compile(r"([a-zA-Z][\w+.-]*://)[^/\s@'\"]*@")
# What databases say about the rows that a statement met.
_ROW = re.compile(r"\[parameters: .*?\](?=\n|$)|^(?:DETAIL|CONTEXT):.*$", re.MULTILINE | re.DOTALL)
# Celery writes a worker's name as pool@host, and its own mailboxes as genNN@host.
_NODE = re.compile(rf"(?:{'|'.join(POOLS)}|celery|beat|gen\d+)(?:-[\w-]+)?")
_TOKEN = re.compile(
    r"\b(?:[\w-]{20,}\.){2}[\w-]{16,}\b|(?<=[?&]token=)[^&\s]+"
    r"|\b[a-z0-9]{1,8}\.[\w-]{11,22}\.[\w-]{22}(?![\w-])|\bdf_[a-z0-9]{8}_[\w-]{20,}"
)

# Four ticks a second are no news, and what fails says so by itself. A worker that is too busy to be
# inspected is no fault of Flower's, nor is a wrong password.
QUIET = {
    "celery.app.trace": logging.WARNING,
    "celery.worker.strategy": logging.WARNING,
    "celery.worker.request": logging.WARNING,  # doorbells that expired
    "celery.beat": logging.WARNING,
    "kombu": logging.WARNING,
    "flower": logging.ERROR,
    "tornado.access": logging.ERROR,
    "tornado.general": logging.ERROR,
}


def redact(text: str) -> str:
    """The text without passwords in URLs, addresses, tokens, and rows that a database quoted."""
    if "://" in text:
        text = _URL_SECRET.sub(r"\1***@", text)
    if "parameters: " in text or "DETAIL:" in text or "CONTEXT:" in text:
        text = _ROW.sub("[row]", text)
    if "@" in text or "%40" in text:
        text = _ADDRESS.sub(_address, text)
    return _TOKEN.sub("[token]", text)


def _address(match: re.Match[str]) -> str:
    local, domain = match.groups()
    if local.endswith("***"):
        return match[0]
    if "." not in domain and _NODE.fullmatch(local):
        return match[0]
    return ADDRESS


def _clean(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact(str(k)): _clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(v) for v in value]
    return redact(str(value))


def refuse_addresses(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Processor: take what must not be logged out of every key and value."""
    return {key: value if key.startswith("_") else _clean(value) for key, value in event.items()}


def configure(level: str = "info", *, json: bool | None = None, **always: str) -> None:
    """Send structlog's and the standard library's records to stderr, once a process.

    Args:
        level: the least that is written: debug, info, warning, error.
        json: None: unless stderr is a terminal.
        always: keys that stand in every record, such as `pool`.
    """
    as_json = not sys.stderr.isatty() if json is None else json

    def stamp(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        return {**always, **event}

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        stamp,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    last: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        refuse_addresses,
    ]
    if as_json:
        last.append(structlog.processors.JSONRenderer(ensure_ascii=False))
    else:
        last.append(structlog.dev.ConsoleRenderer(timestamp_key="at"))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last)
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    if level.lower() != "debug":
        _quieten()


def _quieten() -> None:
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)
