"""`dripfleet quantum`: what an operator types, from asking for a segment to comparing two of them."""

from __future__ import annotations

import html.parser
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from models.session import Database
from tasks.errors import DripfleetError
from tests.live.test_segment_runs import shop
from workers.cli import quantum as commands

RUN = ("segment", "run", "value", "--here", "--backend", "engine", "-k", "3", "--points", "6")
QUICK = ("--layers", "2", "--shots", "128", "--seeds", "10")


@pytest.fixture
def command(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    commands.register(app)
    return lambda *arguments: CliRunner().invoke(app, ["quantum", *arguments])


def test_a_segment_is_asked_for_reported_promoted_and_compared(
    command: Callable[..., Any], database: Database, tmp_path: Path
) -> None:
    shop(database)
    done = command(*RUN, *QUICK)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["stage"] == "done" and told["verdict"] in ("tie", "quantum_worse", "inconclusive")
    run = told["run"]

    shown = command("segment", "report", "value", "--html", "value.html")
    assert shown.exit_code == 0, shown.output
    report = json.loads(shown.stdout)
    assert report["run"] == run and len(report["segments"]) == 4
    assert "a classical computer did the work" in shown.stderr
    page = (tmp_path / "value.html").read_text()
    assert "nothing here ran on quantum hardware" in page and page.count("<svg") >= 5
    assert not re.search(r"(?:src|href)=|url\(|https?://(?!www\.w3\.org)", page), "self-contained"
    tags: list[str] = []

    class Balance(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: Any) -> None:
            if tag in ("svg", "div", "table", "g"):
                tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag in ("svg", "div", "table", "g"):
                assert tags.pop() == tag

    Balance().feed(page)
    assert tags == []

    dry = command("segment", "promote", "value", "--dry-run")
    assert json.loads(dry.stdout)["promoted"] is False
    real = command("segment", "promote", "value")
    assert json.loads(real.stdout)["promoted"] is True
    (row,) = json.loads(command("segment", "list", "value").stdout)
    assert row["run"] == run and row["promoted_at"] is not None

    again = json.loads(command(*RUN, *QUICK, "--seed", "5").stdout)["run"]
    compared = json.loads(command("segment", "compare", str(run), str(again)).stdout)
    assert compared["adjusted_rand"] == pytest.approx(1.0)
    assert sum(cell["subscribers"] for cell in compared["cells"]) == 90


def test_what_cannot_be_is_refused_in_a_sentence(
    command: Callable[..., Any], database: Database
) -> None:
    for arguments, word in (
        (("segment", "run", "Value!", "--here"), "no name of a segment"),
        (("segment", "run", "value", "--here", "--points", "30"), "points is 30: expected 2 to 20"),
        (("segment", "run", "value", "--here", "--backend", "dwave"), "no backend 'dwave'"),
        (
            ("segment", "run", "value", "--here", "-k", "5", "--points", "4"),
            "5 segments of 4 points",
        ),
        (("segment", "report", "value"), "there is no run of segment 'value'"),
        (("segment", "promote", "value"), "there is no run of segment 'value'"),
        (("segment", "compare", "1", "2"), "there is no run 1"),
        (("solve", "graph.csv", "--backend", "ionq"), "IONQ_API_KEY"),
    ):
        done = command(*arguments)
        assert isinstance(done.exception, DripfleetError), (arguments, done.output)
        assert word in str(done.exception), arguments


def test_a_run_without_buyers_is_refused_and_its_exit_code_says_so(
    command: Callable[..., Any], database: Database
) -> None:
    done = command("segment", "run", "value", "--here", "--backend", "engine")
    assert done.exit_code == 1 and "nobody bought anything" in done.stderr
    shown = command("segment", "report", "value")
    assert shown.exit_code == 3 and "refused: nobody bought" in shown.stderr


def test_a_graph_in_a_file_is_solved(command: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "graph.csv").write_text("source,target,weight\na,b,2\nb,c,-1\nc,a,3\nc,d,\n")
    done = command("solve", "graph.csv", "--layers", "2", "--shots", "64")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["optimum"] == 6.0 and set(told["sides"]) == {"a", "b", "c", "d"}
    assert told["sides"]["a"] != told["sides"]["c"] != told["sides"]["d"]


def test_a_search_with_grover_circuits_finds_the_largest_cut_and_counts_its_queries(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "graph.csv").write_text("source,target,weight\na,b,2\nb,c,-1\nc,a,3\nc,d,\nd,e,1\n")
    done = command("search", "graph.csv", "--runs", "6")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["qubits"], told["every_cut"], told["optimum"]) == (4, 16, 7.0)
    # At least half of all searches that use up their bound have it.
    assert told["found"] >= 0.5 and max(row["value"] for row in told["runs"]) == 7.0
    assert told["sides"]["a"] != told["sides"]["c"] != told["sides"]["d"] != told["sides"]["e"]
    assert "looking at every cut takes 16" in done.stderr
    (tmp_path / "graph.csv").write_text(
        "source,target\n" + "".join(f"{i},{i + 1}\n" for i in range(12))
    )
    assert "13 vertices: a search by circuits takes 2 to 11" in str(
        command("search", "graph.csv").exception
    )


def test_a_table_is_clustered_by_the_fidelity_kernel_beside_k_means(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    rows = [f"n{i},{5 * (i % 3) + 0.01 * i},{(i % 3) ** 2 - 0.02 * i}" for i in range(30)]
    (tmp_path / "table.csv").write_text("name,x,y\n" + "\n".join(rows) + "\n")
    done = command("cluster", "table.csv", "-k", "3")
    assert done.exit_code == 0, done.output
    told = {row["method"]: row for row in json.loads(done.stdout)}
    assert set(told) == {"fidelity kernel", "k-means", "rbf kernel"}
    assert told["fidelity kernel"]["clusters"] == [10, 10, 10]
    assert told["fidelity kernel"]["agrees_with_k_means"] == 1.0
    (tmp_path / "table.csv").write_text("name,x\na,1\nb,\nc,3\n")
    assert "column 'x' has gaps" in str(command("cluster", "table.csv").exception)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a,b\n1,2\n", "expected source, target"),
        ("source,target,weight\na,b,much\n", "graph.csv:2: weight 'much': expected a number"),
        ("source,target\na,\n", "graph.csv:2: an edge needs two ends"),
        ("source,target,weight\na,b,nan\n", "weighs nan: expected a finite number"),
        ("source,target\n" + "".join(f"{i},{i + 1}\n" for i in range(30)), "has 31 vertices"),
        ("", "expected source, target"),
    ],
)
def test_a_file_that_is_no_graph_is_refused(
    command: Callable[..., Any], tmp_path: Path, text: str, word: str
) -> None:
    (tmp_path / "graph.csv").write_text(text)
    done = command("solve", "graph.csv")
    assert word in str(done.exception), done.output


def test_backends_say_what_keeps_them_from_running_here(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IONQ_API_KEY", raising=False)
    rows = {row["backend"]: row for row in json.loads(command("backends").stdout)}
    assert rows["engine"]["runs_here"] and rows["engine"]["queue"] == "quantum"
    assert not rows["ionq"]["runs_here"] and rows["ionq"]["why_not"]
    assert rows["google-willow"]["queue"] == "quantum-noisy"
