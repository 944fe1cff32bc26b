"""An operator's own table with labels: read, its types inferred, its label understood."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.errors import Permanent

GAPS: Final = ["", " ", "NA", "N/A", "na", "n/a", "NaN", "nan", "null", "NULL", "None", "?", "-"]
YES: Final = ("yes", "true", "1", "1.0", "churn", "churned", "left", "lapsed", "y", "t")
NUMBERS: Final = 0.98  # of the values that read as one, for a column to be numbers


class BadTable(Permanent):
    """A file that no model can be fitted to; the message names the column and the next move."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of a file.

    Attributes:
        frame: (n, m) typed features.
        positive: (n,) which rows are positive.
        word: the value of the label that means it.
        left_out: columns that are no features, each with its reason.
        sha256: of the file.
    """

    frame: pd.DataFrame
    positive: NDArray[np.bool_]
    word: str
    left_out: dict[str, str]
    sha256: str


def read(path: Path, label: str, positive: str | None = None, drop: tuple[str, ...] = ()) -> Table:
    """Read a CSV file (also .gz, .xz, .zip, .zst) with a header.

    Args:
        path: of the file.
        label: name of the label's column.
        positive: the value that means churned; by default the one that says yes, else the rarer.
        drop: columns that are no features, dates after the fact, say.

    Raises:
        BadTable: no such column, no two classes, or nothing that varies.
    """
    raw, digest = load(path)
    if label not in raw.columns:
        raise BadTable(
            f"{path.name} has no column {label!r}: its columns are {', '.join(raw.columns)};"
            " name the label with --label"
        )
    if missing := [name for name in drop if name not in raw.columns]:
        raise BadTable(f"{path.name} has no column {missing[0]!r} to drop")
    said = raw[label].str.strip()
    if said.isna().any():
        raise BadTable(
            f"{int(said.isna().sum())} rows of {path.name} have no {label!r}: every row needs its"
            " label; take them out"
        )
    word = _positive(said, label, positive)
    typed, left_out = infer(raw.drop(columns=[label, *drop]))
    left_out |= {name: "dropped by you" for name in drop}
    if not len(typed.columns):
        raise BadTable(f"no column of {path.name} but {label!r} can be used: {left_out}")
    return Table(typed, (said == word).to_numpy(dtype=bool), word, left_out, digest)


def load(path: Path) -> tuple[pd.DataFrame, str]:
    """The rows of a file as text, gaps as None; and its hash.

    Raises:
        BadTable: it cannot be read as CSV.
    """
    if not path.is_file():
        raise BadTable(f"{path} is no file")
    try:
        separator = _separator(path)
        raw = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=GAPS, sep=separator)
    except (OSError, ValueError, pd.errors.ParserError) as fault:
        raise BadTable(f"{path.name} cannot be read as CSV: {fault}") from fault
    if not len(raw):
        raise BadTable(f"{path.name} has no rows")
    raw.columns = [str(name).strip() for name in raw.columns]
    return raw, hashlib.sha256(path.read_bytes()).hexdigest()


def infer(raw: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """Typed columns, and those that are none with the reason.

    A column whose values read as numbers is numbers; a text that is hardly ever the same twice is
    an identifier, and left out; any other text is a category.
    """
    made: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name in raw.columns:
        column = raw[name].str.strip()
        known = column.dropna()
        if known.nunique() < 2 and not (len(known) and column.isna().any()):
            left_out[name] = "constant" if len(known) else "empty"
            continue
        numbers = pd.to_numeric(column, errors="coerce")
        if len(known) and numbers.notna().sum() >= NUMBERS * len(known):
            made[name] = numbers.astype(float)
        elif known.nunique() > max(20, 0.5 * len(known)):
            left_out[name] = "an identifier: hardly a value comes twice"
        else:
            made[name] = column.astype(object)
    return pd.DataFrame(made, index=raw.index), left_out


def _positive(said: pd.Series[Any], label: str, wanted: str | None) -> str:
    counts = said.value_counts()
    values = [str(value) for value in counts.index]
    if wanted is not None:
        if wanted not in values:
            raise BadTable(f"label {label!r} is never {wanted!r}: it is {', '.join(values[:5])}")
        return wanted
    if len(values) == 1:
        raise BadTable(f"label {label!r} is {values[0]!r} in every row: two classes were expected")
    if len(values) != 2:
        raise BadTable(
            f"label {label!r} has {len(values)} values ({', '.join(values[:5])} …): two were"
            " expected; name the one that means churned with --positive"
        )
    yes = [value for value in values if value.lower() in YES]
    return yes[0] if len(yes) == 1 else values[-1]


def _separator(path: Path) -> str:
    opener = pd.io.common.get_handle(path, "r", compression="infer", encoding="utf-8", is_text=True)
    with opener as file:
        first = file.handle.readline()
    try:
        return csv.Sniffer().sniff(first, delimiters=",;\t|").delimiter
    except csv.Error:
        return ","
