"""Rows out of a Parquet file: typed, numbered, and never trusted."""

from __future__ import annotations

import datetime as dt
import io
import sys
from decimal import Decimal
from typing import Any

import pytest

from tasks.audience.candidate import BadRow, Candidate, Interpreter
from tasks.audience.parquetfile import ParquetFile, is_parquet
from tasks.errors import Misconfigured, Permanent

pa = pytest.importorskip("pyarrow", reason="Parquet is an extra")


def parquet(columns: dict[str, Any], *, group: int | None = None) -> io.BytesIO:
    import pyarrow.parquet as pq  # type: ignore[import-untyped, import-not-found, unused-ignore]

    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, row_group_size=group)
    out.seek(0)
    return out


def opened(columns: dict[str, Any], *, group: int | None = None) -> ParquetFile:
    return ParquetFile(parquet(columns, group=group), "people.parquet", required=("email",))


def read(columns: dict[str, Any]) -> list[Candidate]:
    file = opened(columns)
    interpreter = Interpreter(file.columns, b"a secret of the tests")
    return [interpreter.read(row) for row in file]


def test_typed_columns_become_typed_attributes() -> None:
    at = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    first, second = read(
        {
            "Email": ["zoe@example.com", "li@example.com"],
            "external_id": [4711, None],
            "orders": [0, None],
            "spent": [2.5, float("nan")],
            "credit": [Decimal("3.50"), None],
            "vip": [False, None],
            "plan": pa.array(["pro", None]).dictionary_encode(),
            "since": [dt.date(2026, 1, 2), None],
            "seen": pa.array([at, None], pa.timestamp("ns", "Europe/Berlin")),
            "topic:news": [True, None],
        }
    )
    assert (first.address, first.external_id, first.topics) == (
        "zoe@example.com", "4711", {"news": True},
    )  # fmt: skip
    assert first.attributes == {
        "orders": 0, "spent": 2.5, "credit": 3.5, "vip": False, "plan": "pro",
        "since": "2026-01-02", "seen": "2026-01-02T03:04:05Z",
    }  # fmt: skip
    assert isinstance(first.attributes["orders"], int)
    assert (second.attributes, second.topics, second.external_id) == ({}, {}, None)


def test_whole_numbers_that_a_data_frame_made_fractions_are_whole_again() -> None:
    (found,) = read({"email": ["a@x.de"], "external_id": [4711.0], "orders:int": [3.0]})
    assert found.external_id == "4711"
    assert found.attributes == {"orders": 3}


def test_rows_are_numbered_over_all_row_groups() -> None:
    file = opened({"email": [f"p{i}@x.de" for i in range(10)]}, group=3)
    assert [(row.line, row.fields) for row in file][8:] == [(9, ["p8@x.de"]), (10, ["p9@x.de"])]


def test_a_bad_row_is_a_fault_with_its_text_and_not_the_end() -> None:
    octets = pa.array([b"a@x.de", b"M\xfcller@x.de", b"b\x00@x.de", b"c@x.de"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 4, octets.buffers())
    rows = list(opened({"email": text, "plan": ["pro", "a,b", "", ""]}))
    assert [row.fault is None for row in rows] == [True, False, False, True]
    assert "not UTF-8" in str(rows[1].fault) and "NUL" in str(rows[2].fault)
    assert rows[1].raw.endswith('"a,b"\r\n')
    with pytest.raises(BadRow, match="no @"):
        read({"email": ["nobody"]})


def test_what_no_attribute_can_hold_is_said_before_the_first_row() -> None:
    for columns, said in (
        ({"mail": ["a@x.de"]}, "no column email"),
        ({"email": ["a@x.de"], "tags": [["a", "b"]]}, "column 'tags' of type list"),
        ({"email": ["a@x.de"], "key": [b"\x01"]}, "column 'key' of type binary"),
        ({"email": ["a@x.de"], "EMAIL ": ["b@x.de"]}, "'email' twice"),
    ):
        with pytest.raises(Permanent, match=said):
            opened(columns)


def test_a_file_that_is_broken_is_one_sentence() -> None:
    whole = parquet({"email": ["a@x.de"]}).getvalue()
    assert is_parquet(io.BytesIO(whole)) and not is_parquet(io.BytesIO(b"email\na@x.de\n"))
    with pytest.raises(Permanent, match="no readable Parquet file"):
        ParquetFile(io.BytesIO(whole[:-20]), "people.parquet")


def test_without_pyarrow_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Misconfigured, match=r"dripfleet\[parquet\]"):
        ParquetFile(io.BytesIO(b"PAR1"), "people.parquet")
