"""Rows out of files that others wrote."""

from __future__ import annotations

import io

import pytest

from tasks.audience import csvfile
from tasks.audience.csvfile import CsvFile, Row
from tasks.errors import Permanent


def read(content: bytes) -> list[Row]:
    file = CsvFile(io.BytesIO(content), "people.csv", required=("email",))
    return list(file)


def test_a_row_knows_the_line_it_began_on() -> None:
    rows = read(b'email,note\na@x.de,"two\nlines"\n\nb@x.de,one\n')
    assert [(row.line, row.fields) for row in rows] == [
        (2, ["a@x.de", "two\nlines"]),
        (5, ["b@x.de", "one"]),
    ]


def test_a_byte_order_mark_and_the_case_of_the_header_do_not_matter() -> None:
    file = CsvFile(io.BytesIO(b"\xef\xbb\xbfEMail,Plan\r\na@x.de,pro\r\n"), "f", ("email",))
    assert file.columns == ["email", "Plan"]
    assert [row.fields for row in file] == [["a@x.de", "pro"]]


def test_a_quote_that_never_closes_costs_its_own_row_alone() -> None:
    rows = read(b'email\na@x.de\n"b@x.de\nc@x.de\n"d@x.de"\ne@x.de\n')
    assert [row.line for row in rows if row.fault] == [3]
    assert [row.fields[0] for row in rows if not row.fault] == [
        "a@x.de",
        "c@x.de",
        "d@x.de",
        "e@x.de",
    ]


def test_a_quote_that_never_closes_does_not_swallow_a_long_file() -> None:
    many = b"".join(b"c%d@x.de\n" % i for i in range(3 * csvfile.MOST_LINES))
    rows = read(b'email\n"b@x.de\n' + many)
    assert [row.line for row in rows if row.fault] == [2]
    assert len(rows) == 1 + 3 * csvfile.MOST_LINES
    assert rows[-1].line == len(rows) + 1


def test_an_endless_line_is_one_bad_row_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csvfile, "LONGEST_LINE", 1000)
    rows = read(b"email\n" + b"x" * 5500 + b"\na@x.de\n")
    assert [(row.line, row.fault is None) for row in rows] == [(2, False), (3, True)]
    assert len(rows[0].raw) <= 200


@pytest.mark.parametrize(
    ("row", "word"),
    [
        (b"a@x.de", "1 fields where the header has 2"),
        (b"a@x.de,b,c", "3 fields"),
        (b"a\x00@x.de,b", "NUL"),
        (b"lat\xedn@x.de,b", "UTF-8"),
        (b'"a"b@x.de,b', "quote"),
    ],
)
def test_a_broken_row_is_a_fault_with_a_reason_and_the_next_one_is_read(
    row: bytes, word: str
) -> None:
    broken, good = read(b"email,name\n" + row + b"\nz@x.de,Zo\xc3\xab\n")
    assert broken.fault is not None and word in broken.fault
    assert good.fault is None and good.fields == ["z@x.de", "Zoë"]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "is empty"),
        (b"name,plan\nZoe,pro\n", "no column email"),
        (b"email;name\n", "separate columns by commas"),
        (b"\xff\xfee\x00m\x00", "UTF-8"),
        (b"email,,plan\n", "column 2"),
        (b"email,plan,plan\n", "twice"),
        (b'"email,plan\n', "header row"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_sentence(content: bytes, word: str) -> None:
    with pytest.raises(Permanent, match=word) as refused:
        read(content)
    assert "people.csv" in str(refused.value) and "\n" not in str(refused.value)
