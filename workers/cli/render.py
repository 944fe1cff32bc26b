"""What the command line says and hands out: talk on stderr, data on stdout."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


# As `plain` writes one; people need no fractions of a second.
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?([+-]\d\d:\d\d)", re.ASCII)


class ExitCode(IntEnum):
    """What a command ends with, for scripts."""

    OK = 0
    FAULT = 1
    USAGE = 2
    FINDINGS = 3
    UNREACHABLE = 4
    INTERRUPTED = 130


def say(text: str, style: str | None = None) -> None:
    """Tell the person at the terminal one thing; never data, and never in the way of it."""
    if sys.stderr.isatty():
        _console(stderr=True).print(text, style=style, markup=False, highlight=False)
    else:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def emit(
    data: Any,
    *,
    columns: Sequence[str] | None = None,
    title: str | None = None,
    as_json: bool = False,
) -> None:
    """Hand out data: a table where somebody watches, JSON where it is piped or asked for.

    Args:
        data: a mapping (shown as name and value), or a sequence of mappings or dataclasses (a row
            each).
        columns: which keys become columns, in this order; None: those of the first row.
        title: stands over the table.
        as_json: JSON on a terminal too.
    """
    if as_json or not sys.stdout.isatty():
        sys.stdout.write(json.dumps(plain(data), ensure_ascii=False, indent=2) + "\n")
        sys.stdout.flush()
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold")
    if isinstance(data, Mapping) or dataclasses.is_dataclass(data):
        table.show_header = False
        table.add_column(style="bold")
        table.add_column()
        rows = [[name, value] for name, value in plain(data).items()]
    else:
        records = [plain(row) for row in data]
        names = list(columns or (records[0] if records else ()))
        for name in names:
            # A time that is broken in two is read wrong; words may be.
            whole = any(_INSTANT.fullmatch(str(record.get(name))) for record in records)
            table.add_column(name.replace("_", " "), overflow="fold", no_wrap=whole)
        rows = [[record.get(name) for name in names] for record in records]
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    _console(stderr=False).print(table)


def plain(value: Any) -> Any:
    """A value as JSON has it: instants as ISO 8601, bytes as hex, dataclasses as objects."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


class Progress:
    """Where long work stands; see `progress`."""

    def __init__(self, what: str) -> None:
        self.what = what

    def show(self, done: float, total: float | None, text: str = "") -> None:
        """Say how far it is: `done` of `total` (None: nobody knows), and a word about it."""


class _Lines(Progress):
    """A plain line every few seconds, for logs and pipes."""

    EVERY = 5.0

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self._next = time.monotonic() + self.EVERY

    def show(self, done: float, total: float | None, text: str = "") -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self.EVERY
            share = f" {done / total:.0%}" if total else ""
            say(f"{self.what}:{share} {text}".rstrip())


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """A progress bar on stderr; plain lines where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield _Lines(what)
        return
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
        console=_console(stderr=True),
    )
    task = bars.add_task(what, total=None, text="")

    class Bar(Progress):
        def show(self, done: float, total: float | None, text: str = "") -> None:
            bars.update(task, completed=done, total=total, text=text)

    with bars:
        yield Bar(what)


def number(value: float) -> str:
    """A count as people read it: 1 234 567."""
    return f"{value:,.0f}".replace(",", " ")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if found := _INSTANT.fullmatch(str(value)):
        return f"{found[1]} {found[2]}{'Z' if found[3] == '+00:00' else found[3]}"
    # A control character from somebody's data must not reach the terminal.
    return "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(value)
    )


def _console(stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, no_color="NO_COLOR" in os.environ)
