"""Events out of Parquet and NDJSON, and columns that say their type."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from models.session import Database
from workers.cli import main
from workers.cli.render import ExitCode

SECRET = "a secret of the tests"


@pytest.fixture
def people(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", database.url)
    monkeypatch.setenv("DRIPFLEET_SECRET_ADDRESS", SECRET)
    monkeypatch.chdir(tmp_path)
    Path("people.csv").write_text("email,external_id\nzoe@example.com,crm-1\n")
    assert main(["subscribers", "import", "people.csv"]) == ExitCode.OK
    return database


def events(database: Database) -> list[Any]:
    with database.transaction() as connection:
        rows = connection.execute(
            text("SELECT name, occurred_at, properties FROM event ORDER BY occurred_at, id")
        )
        return [(row.name, f"{row.occurred_at:%Y-%m-%d %H}", row.properties) for row in rows]


def bring(file: str, capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()
    assert main(["events", "import", file, "--source", "shop", "--json"]) == ExitCode.OK
    return json.loads(capsys.readouterr().out)


def test_ndjson_brings_events_with_the_types_of_json(
    people: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        {"email": "zoe@example.com", "name": "buy", "occurred_at": "2026-02-01", "source_id": 1,
         "amount": 9.5, "tags": ["a"], "none": None},
        {"external_id": "crm-1", "name": "buy", "occurred_at": "2026-02-02T10:00:00+02:00",
         "source_id": "2", "properties": {"gift": True}},
        {"external_id": "crm-9", "name": "buy", "occurred_at": "2026-02-02", "source_id": "3"},
        {"external_id": "crm-1", "name": "buy", "occurred_at": "soon", "source_id": "4"},
        {"external_id": "crm-1", "name": "buy", "occurred_at": "2026-02-02", "source_id": "5",
         "note": "a\x00b"},
    ]  # fmt: skip
    text_ = "\n".join(json.dumps(line) for line in lines) + '\n\n[1]\n{"a":\n'
    Path("shop.ndjson").write_bytes(text_.encode() + b'{"name": "\xff"}\n')
    for new, known in ((2, 0), (0, 2)):
        told = bring("shop.ndjson", capsys)
        assert (told["new"], told["known"], told["rejected"]) == (new, known, 6)
    assert events(people) == [
        ("buy", "2026-02-01 00", {"amount": 9.5, "tags": ["a"]}),
        ("buy", "2026-02-02 08", {"gift": True}),
    ]
    with Path("shop.ndjson.rejects.csv").open(newline="", errors="surrogateescape") as file:
        refused = {int(row["line"]): row["reason"] for row in csv.DictReader(file)}
    assert refused.keys() == {3, 4, 5, 7, 8, 9}
    assert "no subscriber" in refused[3] and "no date" in refused[4]
    assert "not text" in refused[5] and "no object" in refused[7]
    assert "no JSON object" in refused[8] and "not UTF-8" in refused[9]


def test_parquet_brings_events_with_the_types_of_its_columns(
    people: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    arrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    import datetime as dt

    table = arrow.table(
        {
            "email": ["zoe@example.com", "zoe@example.com", "li@example.com"],
            "name": ["buy", "buy", "buy"],
            "occurred_at": [dt.datetime(2026, 2, day, 8, tzinfo=dt.UTC) for day in (1, 2, 3)],
            "source_id": [1, 2, 3],
            "amount": [9.5, None, 1.0],
            "paid": [True, False, True],
            "sku": ["a", "b", "c"],
        }
    )
    parquet.write_table(table, "shop.parquet")
    for new, known in ((2, 0), (0, 2)):
        told = bring("shop.parquet", capsys)
        assert (told["new"], told["known"], told["rejected"]) == (new, known, 1)
    assert events(people) == [
        ("buy", "2026-02-01 08", {"amount": 9.5, "paid": True, "sku": "a"}),
        ("buy", "2026-02-02 08", {"paid": False, "sku": "b"}),
    ]


def test_a_column_of_a_csv_file_says_its_type_too(
    people: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("shop.csv").write_text(
        "email,name,occurred_at,source_id,amount:number,items:int,at:home\n"
        "zoe@example.com,buy,2026-02-01,1,9.5,3,x\n"
        "zoe@example.com,buy,2026-02-01,2,much,3,x\n"
    )
    told = bring("shop.csv", capsys)
    assert (told["new"], told["rejected"]) == (1, 1)
    assert told["reasons"] == {"column amount:number holds something that is not a number": 1}
    assert events(people) == [("buy", "2026-02-01 00", {"amount": 9.5, "items": 3, "at:home": "x"})]
