"""Work on content: paid for within its budget, done here or by a worker, written whole or not at all."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import text

from models.session import Database
from tasks import base, content_work, names
from tasks.errors import Permanent
from tasks.personalize import entry, requests
from tasks.personalize.client import Answer, Down, Reply
from tasks.personalize.desk import Desk
from tasks.personalize.draft import Draft
from tasks.personalize.settings import ModelSettings
from tasks.send.dossier import dossier
from tasks.send.render import Bundle
from tests.live.fleet import Fleet
from workers.cli import main
from workers.cli.render import ExitCode
from workers.doctor.content import jobs
from workers.embedded.model_server import Manners, completion, in_thread
from workers.embedded.sink import Sink

BRIEF = "New vinyl has come in for the spring. Listening in the shop is welcome, and so are you."
DRAFT = Draft("spring", BRIEF)
SPENT = "SELECT scope, reserved, settled FROM model_spend ORDER BY scope"


class Model:
    """Answers as the server that ships does, after the replies that it is given first."""

    def __init__(self, *first: Reply) -> None:
        self.first = list(first)
        self.asked: list[Any] = []

    def ask(self, model: str, messages: Any, form: Any) -> Reply:
        self.asked.append(messages)
        if self.first:
            return self.first.pop(0)
        said = completion({"messages": messages, "response_format": form})
        return Answer(said, 1000, 500, 0.1)


def desk(database: Database, model: Model, **settings: Any) -> Desk:
    return Desk(database, ModelSettings(prices="m=1/2", **settings), model)


def asked(database: Database, task: str = names.CONTENT_DRAFT) -> int:
    with database.transaction() as connection:
        return requests.ask(connection, task, "spring", "m", DRAFT.to_json())


def rows(database: Database, sql: str) -> list[Any]:
    with database.transaction() as connection:
        return list(connection.execute(text(sql)).all())


def look(database: Database, job: int) -> Any:
    with database.transaction() as connection:
        return requests.look(connection, job)


def test_a_refused_answer_is_asked_for_once_more_with_the_reason_and_paid_for(
    database: Database,
) -> None:
    model = Model(Answer('{"title": "x"}', 100, 10, 0.1))
    job = asked(database)
    assert desk(database, model).work(names.CONTENT_DRAFT) == {"done": 1, "failed": 0, "later": 0}
    row = look(database, job)
    assert row.state == "done" and row.calls == 2 and row.cost == 120 + 2000
    assert "no JSON object of exactly title, mails" in model.asked[1][-1]["content"]
    assert rows(database, SPENT) == [("all", 0, 2120), ("sequence:spring", 0, 2120)]


def test_two_refused_answers_end_it_with_the_reason(database: Database) -> None:
    job = asked(database)
    desk(database, Model(*[Answer("no", 1, 1, 0.1)] * 2)).do(job)
    row = look(database, job)
    assert row.state == "failed" and "2 answers of the model m were refused" in row.said


def test_a_budget_is_not_passed_by_four_who_draft_at_once(database: Database) -> None:
    for _ in range(8):
        asked(database)
    model = Model()
    # A call costs 2 000 millionths; it may cost 6 000 and what is sent.
    desks = [desk(database, model, budget_sequence=0.02) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: one.work(names.CONTENT_DRAFT), desks))
    ((reserved, settled),) = rows(
        database, "SELECT reserved, settled FROM model_spend WHERE scope = 'sequence:spring'"
    )
    assert reserved == 0 and settled <= 20_000
    ended = rows(database, "SELECT state, said FROM content_work ORDER BY id")
    done = [each for each in ended if each.state == "done"]
    assert 0 < len(done) < 8 and settled == 2000 * len(done)
    assert all("today's budget does not hold" in each.said for each in ended if each not in done)


def test_a_model_that_is_down_puts_a_worker_off_and_ends_the_work_of_a_command(
    database: Database,
) -> None:
    job = asked(database)
    down = Down("rate_limited", "answers 429", 30.0)
    assert desk(database, Model(down)).work(names.CONTENT_DRAFT)["later"] == 1
    with database.transaction() as connection:
        assert content_work.waiting(connection) == set(), "nobody asks for as long as it said"
    with pytest.raises(Permanent, match="answers 429, and is not asked before"):
        desk(database, Model()).do(job)
    rows(database, "UPDATE model_circuit SET open_until = '-infinity' RETURNING 1")
    rows(database, "UPDATE content_work SET retry_at = '-infinity' RETURNING 1")
    rows(database, "UPDATE content_work SET created_at = now() - interval '1 day' RETURNING 1")
    with database.transaction() as connection:
        assert content_work.waiting(connection) == {names.CONTENT_DRAFT}
        (finding,) = jobs(connection)
        assert "the model m answers 429" in finding.says
    desk(database, Model(Down("model_down", "does not answer"))).do(job)
    assert look(database, job).said == "the model m does not answer"


def test_what_a_lost_worker_set_aside_is_settled_and_its_work_is_done_by_the_next(
    database: Database,
) -> None:
    class Killed(BaseException):
        pass

    class Kills(Model):
        def ask(self, model: str, messages: Any, form: Any) -> Reply:
            raise Killed

    job = asked(database)
    with pytest.raises(Killed):
        desk(database, Kills()).do(job)
    ((_, aside, _), _) = rows(database, SPENT)
    assert aside > 0
    with database.transaction() as connection:
        assert requests.claim(connection, task=names.CONTENT_DRAFT) is None, "it holds it yet"
    rows(database, "UPDATE content_work SET lease_until = '-infinity' RETURNING 1")
    desk(database, Model()).work(names.CONTENT_DRAFT)
    assert rows(database, SPENT)[0] == ("all", 0, aside + 2000)
    assert look(database, job).state == "done"


@pytest.fixture
def typed(
    database_url: str,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Any]:
    """Types a command in a folder of its own; its exit code, data and talk."""
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", database_url)
    for name in ("DRIPFLEET_MODEL_URL", "DRIPFLEET_MODEL", "DRIPFLEET_TEMPLATES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def types(*words: str) -> tuple[int, Any, str]:
        capsys.readouterr()
        code = main(["content", *words])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out.startswith(("{", "[")) else out, err

    yield types


def test_a_brief_becomes_a_sequence_that_validates_without_any_model(
    typed: Any, tmp_path: Path
) -> None:
    code, told, said = typed(
        "draft", "spring", "--brief", BRIEF, "--goal", "purchase", "--mails", "2"
    )
    assert code == ExitCode.OK and "no language model" in said
    assert "spring.yaml" in told["written"] and len(told["written"]) == 9
    assert "templates/_base/layout.html" in told["written"], "a folder without a frame gets ours"
    assert 'class="card"' in (tmp_path / "templates/_base/layout.html").read_text()
    assert (
        main(["sequence", "validate", "spring.yaml", "--templates", "templates", "--offline"]) == 0
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["spring.yaml", "templates"]
    review = ("review", "spring/mail-2", "--templates", "templates")
    assert typed(*review)[0] == ExitCode.OK
    again = typed("draft", "spring", "--brief", BRIEF)
    assert again[0] == ExitCode.FAULT and "writes over nothing" in again[2]
    whole = (
        "draft", "other", "--brief", BRIEF, "--goal", "purchase", "--subjects", "2", "--branch",
        "sub.orders > 3", "--field", "orders: {from: sub.orders, bands: [2, 5]}",
    )  # fmt: skip
    shown = typed(*whole, "--dry-run")
    assert shown[0] == ExitCode.OK and not (tmp_path / "other.yaml").exists()
    assert "experiment: {arms: {a: 1, b: 1}}" in shown[1]["files"]["other.yaml"]
    assert typed(*whole)[0] == ExitCode.OK
    assert sorted(p.name for p in (tmp_path / "templates").iterdir()) == [
        "_base", "_prompts", "other", "spring"
    ]  # fmt: skip
    assert len(list((tmp_path / "templates/_prompts/other").iterdir())) == 4
    for option, said in (
        ("--subjects=2", "--goal"),
        ("--branch=sub.orders >", "--branch"),
        ("--field=orders: {from: sub.orders, bonds: [2]}", "--field"),
        ("--reader=friends", "--branch"),
    ):
        refused = typed("draft", "third", "--brief", BRIEF, option)
        assert refused[0] == ExitCode.USAGE and said in refused[2]
    code, told, _ = typed("draft", "spring", "--job", str(told["job"]), "--out", "two",
                          "--templates", "two/templates")  # fmt: skip
    assert code == ExitCode.OK and (tmp_path / "two/spring.yaml").is_file()
    code, listed, _ = typed("jobs")
    assert [row["state"] for row in listed] == ["done"] * 3


def test_an_answer_that_is_refused_twice_writes_nothing(
    typed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_thread(Manners(garbage=1.0)) as server:
        monkeypatch.setenv("DRIPFLEET_MODEL_URL", server.url)
        code, _, said = typed("draft", "spring", "--brief", BRIEF)
    assert code == ExitCode.FAULT and "answers of the model variants were refused" in said
    assert list(tmp_path.iterdir()) == []


def test_lines_become_templates_beside_the_one_that_there_is(typed: Any, tmp_path: Path) -> None:
    typed("draft", "spring", "--brief", BRIEF, "--mails", "1")
    words: Sequence[str] = (
        "subject-lines", "spring.yaml:mail-1", "-n", "2", "--templates", "templates", "--write",
    )  # fmt: skip
    code, told, _ = typed(*words)
    assert code == ExitCode.OK and len(told["lines"]) == 2
    assert "experiment:" in told["experiment"] and "spring/mail-1-a" in told["experiment"]
    made = tmp_path / "templates/spring/mail-1-b"
    assert sorted(p.name for p in made.iterdir()) == ["body.html", "body.txt", "subject.txt"]
    assert made.joinpath("subject.txt").read_text().strip() == told["lines"][1]["subject"]
    assert typed(*words)[0] == ExitCode.FAULT, "nothing is written over"


def test_no_line_holds_what_is_true_of_one_subscriber_alone(typed: Any) -> None:
    code, told, _ = typed("subject-lines", "win-back/hello", "-n", "5")
    assert code == ExitCode.OK and told["lines"]
    said = " ".join([told["subject"], *(line["subject"] for line in told["lines"])])
    assert not re.search(r"\d|Ada", said), "the made-up Ada has three orders"


def test_a_comparison_is_told_in_sentences_from_its_figures(typed: Any, tmp_path: Path) -> None:
    (tmp_path / "theirs.eml").write_text("Subject: 50% off\n\nTake 50% off. It ends soon.\n")
    code, told, said = typed("compare", "theirs.eml", "--ours", "win-back/hello", "--prose")
    assert code == ExitCode.OK and "no language model" in said, said
    assert "theirs have" in told["summary"]


def test_the_pool_does_what_is_put_into_its_queue(
    typed: Any, database: Database, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIPFLEET_REDIS_URL", valkey_url)
    code, _, said = typed("review", "win-back/hello", "--queue")
    assert code != ExitCode.OK and "no worker of pool personalize answers" in said
    rows(database, "INSERT INTO canary VALUES ('personalize', 'w', now(), 0) RETURNING 1")
    code, told, _ = typed("review", "win-back/hello", "--queue", "--no-wait")
    assert code == ExitCode.OK
    with redis.Redis.from_url(valkey_url) as client:
        assert client.llen("personalize") == 1, "its doorbell"
    with database.transaction() as connection:
        assert content_work.waiting(connection) == {names.CONTENT_REVIEW}
    monkeypatch.setattr(base, "_database", database)
    entry.desk.cache_clear()
    assert entry.review(v=names.VERSION + 1) == {"dropped": "version"}
    assert entry.review(v=names.VERSION) == {"done": 1, "failed": 0, "later": 0}
    code, row, said = typed("jobs", str(told["job"]))
    assert code == ExitCode.OK, said
    found = row["found"]
    assert found == typed("review", "win-back/hello")[1]

    def works() -> None:
        until = time.monotonic() + 20
        one = Desk(database, ModelSettings())
        while not one.work(names.CONTENT_COMPARE)["done"] and time.monotonic() < until:
            pass

    Path("theirs.eml").write_text("Subject: 50% off\n\nTake 50% off. It ends soon.\n")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(works)
        words = ("compare", "theirs.eml", "--ours", "win-back/nudge")
        assert typed(*words, "--queue")[1] == typed(*words)[1]
    entry.desk.cache_clear()


def test_each_mail_is_in_the_language_that_its_claim_froze(
    database: Database, sink: Sink, tmp_path: Path
) -> None:
    parts = {"subject.txt": "Hello", "body.txt": "Hi."}
    german = {f"de/{path}": said for path, said in zip(parts, ("Hallo", "Hi."), strict=True)}
    fleet = Fleet(database, sink, tmp_path)
    fleet.enrolled(3, bundle=Bundle("test/mail", {**parts, **german}))
    rows(database, "UPDATE subscriber SET locale = (ARRAY['de-AT', 'en', NULL])[id] RETURNING 1")
    assert fleet.send()["sent"] == 3
    fleet.service.loop.join(10)
    rows(database, "UPDATE subscriber SET locale = 'de' RETURNING 1")
    kept = rows(database, "SELECT id, subscriber_id FROM message ORDER BY subscriber_id")
    with database.transaction() as connection:
        found = [dossier(connection, str(row.id), fleet.settings).mail for row in kept]
    for mail, subject in zip(found, (b"Hallo", b"Hello", b"Hello"), strict=True):
        assert mail is not None and b"Subject: " + subject in mail.octets
        assert mail.likeness == "same"
