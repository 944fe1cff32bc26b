"""One event in by hand, and subscribers out of Parquet, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from models.session import Database
from tasks.audience.one_event import properties_of
from tasks.audience.store import Subscriber, get
from workers.cli import main
from workers.cli.render import ExitCode

SECRET = "a secret of the tests"


@pytest.fixture
def people(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", database.url)
    monkeypatch.setenv("DRIPFLEET_SECRET_ADDRESS", SECRET)
    monkeypatch.chdir(tmp_path)
    Path("people.csv").write_text("email,external_id,plan\nzoe@example.com,crm-1,pro\n")
    assert main(["subscribers", "import", "people.csv"]) == ExitCode.OK
    return database


def events(database: Database) -> list[Any]:
    with database.transaction() as connection:
        return list(
            connection.execute(text("SELECT name, occurred_at, properties FROM event ORDER BY id"))
        )


def zoe(database: Database) -> Subscriber:
    with database.transaction() as connection:
        return get(connection, "zoe@example.com", SECRET.encode())


def test_an_event_is_recorded_and_one_of_a_source_once(
    people: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    one = ["events", "add", "Zoe@example.com", "purchase", "--property", "amount:number=19.9",
           "--at", "2026-02-28T14:30:00+01:00", "--source", "shop", "--source-id", "81"]  # fmt: skip
    assert main([*one, "--dry-run"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["new"] and not events(people)
    for new in (True, False):
        assert main(one) == ExitCode.OK
        assert json.loads(capsys.readouterr().out)["new"] is new
    ((name, at, properties),) = events(people)
    assert (name, at.isoformat(), properties) == (
        "purchase", "2026-02-28T13:30:00+00:00", {"amount": 19.9},
    )  # fmt: skip
    assert main([*one, "--dry-run"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["new"] is False
    # Another import of that source knows it too; without a source id each call is another event.
    Path("orders.csv").write_text(
        "email,name,occurred_at,source_id\nzoe@example.com,purchase,2026-02-28,81\n"
    )
    assert main(["events", "import", "orders.csv", "--source", "shop"]) == ExitCode.OK
    for _ in range(2):
        assert main(["events", "add", "crm-1", "login"]) == ExitCode.OK
    assert [row.name for row in events(people)] == ["purchase", "login", "login"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["li@example.com", "login"], ExitCode.FAULT, "no subscriber has the address"),
        (["zoe@example.com", " "], ExitCode.FAULT, "the name of the event is empty"),
        (["zoe@example.com", "x", "--at", "soon"], ExitCode.USAGE, "is no date"),
        (["zoe@example.com", "x", "--property", "a"], ExitCode.USAGE, "expected KEY=VALUE"),
        (["zoe@example.com", "x", "--property", "n:int=b"], ExitCode.USAGE, "not a whole number"),
        (["zoe@example.com", "x", "--source-id", ""], ExitCode.FAULT, "source_id"),
    ],
)
def test_what_is_no_event_is_one_sentence(
    people: Database,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: ExitCode,
    said: str,
) -> None:
    assert main(["events", "add", *arguments]) == code
    assert said in capsys.readouterr().err
    assert not events(people)


def test_properties_have_the_types_of_columns() -> None:
    assert properties_of(["a=1", "b:int=1", "c:number=1.5", "d:bool=yes", "e:x=f=g"]) == {
        "a": "1", "b": 1, "c": 1.5, "d": True, "e:x": "f=g",
    }  # fmt: skip
    with pytest.raises(ValueError, match="twice"):
        properties_of(["a=1", "a:int=2"])


def test_a_parquet_file_comes_in_as_a_csv_file_does(
    people: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    pa = pytest.importorskip("pyarrow", reason="Parquet is an extra")
    import pyarrow.parquet as pq  # type: ignore[import-untyped, import-not-found, unused-ignore]

    rows = [
        ("zoe@example.com", None, 3, True),
        ("li@example.com", "Li", 0, None),
        ("nobody", "", 1, None),
    ]
    columns = dict(
        zip(("email", "first_name", "orders", "topic:news"), zip(*rows, strict=True), strict=True)
    )
    pq.write_table(pa.table({k: list(v) for k, v in columns.items()}), "people.parquet")
    capsys.readouterr()
    for new, updated in ((1, 1), (0, 0)):
        assert main(["subscribers", "import", "people.parquet"]) == ExitCode.OK
        told = json.loads(capsys.readouterr().out)
        assert (told["new"], told["updated"], told["rejected"]) == (new, updated, 1)
    assert "the address has no @" in Path("people.parquet.rejects.csv").read_text()
    assert zoe(people).attributes == {"plan": "pro", "orders": 3}
