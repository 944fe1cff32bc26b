"""Rows out of a Parquet file, as those of a CSV file: the same columns, the same faults.

A typed column becomes a column whose name says the type (`orders` of int64 reads as `orders:int`),
so that one interpreter judges both kinds of file. Read batch by batch, each a slice of a row group:
memory is bounded by the file's own row groups, not by its length.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, BinaryIO, Final

from tasks.audience.candidate import FIELDS, TOPIC_PREFIX, TYPES
from tasks.audience.csvfile import LONGEST_LINE, NOT_UTF8, Row
from tasks.errors import Misconfigured, Permanent

MAGIC: Final = b"PAR1"
BATCH: Final = 5_000
BUFFER: Final = 1 << 20
"""Octets of a column chunk read at a time, where the whole of it would be kept otherwise."""
_NO_FRACTION: Final = re.compile(r"\.0+(?=Z?$)")
NUL: Final = "the row holds a NUL character"


def is_parquet(source: BinaryIO) -> bool:
    """Whether the bytes begin as a Parquet file does; looks, and moves nothing."""
    if source.seekable():
        at = source.tell()
        begins = source.read(len(MAGIC))
        source.seek(at)
        return begins == MAGIC
    peek: Callable[[int], bytes] | None = getattr(source, "peek", None)
    return peek is not None and peek(len(MAGIC))[: len(MAGIC)] == MAGIC


class ParquetFile:
    """A Parquet file, read once from front to back; `line` of a row is its number, from 1.

    Args:
        source: the bytes, seekable; never closed.
        name: what messages call the file.
        required: columns that must be there.

    Raises:
        Permanent: it is no Parquet file, lacks a column or has one twice, or has one whose values
            no attribute can hold.
        Misconfigured: pyarrow is not installed.
    """

    def __init__(self, source: BinaryIO, name: str, required: tuple[str, ...] = ()) -> None:
        self.name = name
        self._arrow, parquet = _library()
        if not source.seekable():
            raise Permanent(
                f"{name} is Parquet, which is read from its end; save it to a file and name that"
            )
        try:
            self._file = parquet.ParquetFile(source, buffer_size=BUFFER, pre_buffer=False)
            schema = self._file.schema_arrow
        except (self._arrow.ArrowException, OSError) as error:
            raise Permanent(f"{name} is no readable Parquet file ({_first(error)})") from None
        known = {field.name.strip().casefold() for field in schema}
        missing = [column for column in required if column not in known]
        if missing:
            raise Permanent(
                f"{name} has no column {' and no column '.join(missing)}: its columns are"
                f" {', '.join(schema.names)[:200]!r}"
            )
        self._readers = [self._reader(field, required) for field in schema]
        self.columns = [column for column, _ in self._readers]
        twice = sorted({column for column in self.columns if self.columns.count(column) > 1})
        if twice:
            raise Permanent(f"{name} has the column {twice[0]!r} twice; rename one of them")

    def __iter__(self) -> Iterator[Row]:
        number = 0
        batches = self._file.iter_batches(batch_size=BATCH, use_threads=False)
        while True:
            try:
                batch = next(batches, None)
            except (self._arrow.ArrowException, OSError) as error:
                raise Permanent(
                    f"{self.name} cannot be read on behind row {number} ({_first(error)}); what"
                    " came before it is done"
                ) from None
            if batch is None:
                return
            columns = [
                [None if value is None else write(value) for value in self._values(column)]
                for column, (_, write) in zip(batch.columns, self._readers, strict=True)
            ]
            for fields in zip(*columns, strict=True):
                number += 1
                yield _row(number, ["" if text is None else text for text in fields])

    def detach(self) -> None:
        """Let go of the bytes, which their opener closes."""
        self._file = None

    def _values(self, column: Any) -> list[Any]:
        """The values of a column: times as text, and of text that is not UTF-8 its bytes."""
        arrow, types = self._arrow, self._arrow.types
        if types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if types.is_timestamp(column.type):
            # Arrow's own text: Python's instants know neither nanoseconds nor the year 10 000.
            zone = "UTC" if column.type.tz else None
            column = column.cast(arrow.timestamp("us", zone), safe=False)
        if types.is_temporal(column.type):
            column = column.cast(arrow.string())
        try:
            values: list[Any] = column.to_pylist()
        except UnicodeDecodeError:
            values = [_decoded(octets) for octets in column.cast(arrow.binary()).to_pylist()]
        return values

    def _reader(
        self, field: Any, required: tuple[str, ...]
    ) -> tuple[str, Callable[[Any], str | None]]:
        """What a column is called here, and how a value of it becomes text."""
        types, kind = self._arrow.types, field.type
        name = field.name.strip()
        if not name:
            raise Permanent(f"{self.name} has a column without a name; name it or take it out")
        if name.casefold() in required:
            name = name.casefold()
        if types.is_dictionary(kind):
            kind = kind.value_type
        typed = name not in (*FIELDS, *required) and not name.startswith(TOPIC_PREFIX)
        if types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind):
            return name, str
        if hasattr(types, "is_string_view") and types.is_string_view(kind):
            return name, str
        if types.is_boolean(kind):
            return _named(name, "bool", typed), lambda value: "yes" if value else "no"
        if types.is_integer(kind):
            return _named(name, "int", typed), str
        if types.is_floating(kind) or types.is_decimal(kind):
            return _named(name, "number", typed), _number
        if types.is_temporal(kind) and not types.is_duration(kind):
            return name, _moment
        raise Permanent(
            f"{self.name} has the column {name!r} of type {kind}: expected text, a number, yes or"
            " no, or a date; take it out, or make it one of those"
        )


def _library() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise Misconfigured(
            "A Parquet file needs pyarrow, which is not installed: pip install"
            " 'dripfleet[parquet]', or save the file as CSV."
        ) from None


def _named(name: str, kind: str, typed: bool) -> str:
    said = name.rpartition(":")[2] in TYPES and ":" in name
    return f"{name}:{kind}" if typed and not said else name


def _number(value: Any) -> str | None:
    # NaN is what a data frame has for "nothing", and it turns whole numbers into fractions for it.
    if not math.isfinite(value):
        return None
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else str(value)


def _moment(text: str) -> str:
    return _NO_FRACTION.sub("", text.replace(" ", "T", 1))


def _decoded(octets: bytes | None) -> str | None:
    return None if octets is None else octets.decode("utf-8", "surrogateescape")


def _row(number: int, fields: list[str]) -> Row:
    raw = _as_csv(fields)
    fault = None
    if "\x00" in raw:
        fault = NUL
    elif not raw.isascii() and any("\udc80" <= character <= "\udcff" for character in raw):
        fault = NOT_UTF8
    elif len(raw) > LONGEST_LINE:
        fault, raw = f"the row is longer than {LONGEST_LINE} characters", raw[:200]
    return Row(number, raw, fields, fault)


def _as_csv(fields: list[str]) -> str:
    """The row as it goes to the rejects file."""
    line = io.StringIO()
    csv.writer(line).writerow(fields)
    return line.getvalue()


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0][:200].rstrip(" .;")
