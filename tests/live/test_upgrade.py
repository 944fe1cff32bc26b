"""A migration is applied while mail is in flight: workers of both versions go on, nothing is lost or sent twice."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from models.migrate import downgrade, head, migrate
from tasks.moves import claim, cycle, plan, release
from tasks.moves.settings import DeliverySettings
from tasks.send import prepare, replay, service
from tasks.send.service import Service
from tasks.sequence import store
from tasks.upkeep.verify import VerifySettings, verify
from tests.live import seeds
from tests.live.fleet import Fleet, eventually
from workers.cli.audit import SinkLedger

Make = Callable[..., Fleet]
MAILS = 40
REGION = "\n                  AND t.region IS NOT DISTINCT FROM CAST(:region AS text)"


HELD = re.compile(r"LATERAL \(SELECT r\.state = 'scheduled' AND \(.*?\) AS held\) h", re.DOTALL)
WORDS = re.compile(
    r",? words(?=[,)])| CAST\(r\.words AS jsonb\),|,\s+CAST\(:words AS text\[\]\)"
    r"|\s+\|\| CASE WHEN m\.(?:words|event) IS NULL THEN .*? END(?=\)|\n)"
    r"|,? event(?=,)| e\.event,"
)
EDITED = re.compile(
    r" template_version,(?= state)|\s+decode\(coalesce\(k\.templates [^\n]*"
    r"|\s+JOIN sequence_version v ON [^\n]*\n\s+LEFT JOIN sequence_version k\s+ON [^,]*(?=,)"
)
SNOOZED = re.compile(r"\(SELECT z\.until FROM snooze z [^)]*\) AS snoozed_until")
COUNTED = re.compile(r"\n +deferrals = m\.deferrals \+ [^\n]*,")


def earlier(statement: object) -> str:
    """A statement as it was before regions, deferrals and words, quarantines, and edits of what runs."""
    told = str(statement)
    was = HELD.sub("LATERAL (SELECT false AS held) h", COUNTED.sub("", told)).replace(REGION, "")
    was = EDITED.sub("", was).replace("e.passed", "NULL AS passed")
    was = SNOOZED.sub("NULL AS snoozed_until", was).replace(", tracking", ", 'none' AS tracking")
    was = was.replace(", return_path, provider", ", NULL AS return_path, NULL AS provider")
    was = WORDS.sub("", was).replace("least(m.deferrals, 20)", "least(m.attempts, 20)")
    assert was != told, "nothing of it is new"
    return was


@pytest.fixture
def as_before(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """What this process says to Postgres is what it said before the migrations, until undone."""
    said = (
        (claim, "CLAIM"), (plan, "INSERT"), (release, "GIVE_BACK"), (store, "DUE"),
        (prepare, "STREAM"),
    )  # fmt: skip
    for module, name in said:
        monkeypatch.setattr(module, name, text(earlier(getattr(module, name))))
    record = earlier(cycle.STATEMENTS["dripfleet_record"])
    monkeypatch.setitem(cycle.STATEMENTS, "dripfleet_record", record)
    monkeypatch.setattr(service, "identity", lambda database: "")
    monkeypatch.setattr(replay, "identity", lambda database: "")
    return monkeypatch


def due(fleet: Fleet, domain: str) -> None:
    """Plan one mail each for so many more people."""
    people = seeds.subscribers(fleet.database, MAILS, domain=domain)
    seeds.enroll(fleet.database, "one-mail", people)
    fleet.scan()


def test_an_upgrade_with_mail_in_flight_loses_nothing_and_sends_nothing_twice(
    fleet_with: Make, as_before: pytest.MonkeyPatch
) -> None:
    # Each reply comes late, so that mails stand behind their dot while the schema changes.
    fleet = fleet_with("dot:stall,seconds=0.4")
    assert downgrade(fleet.database, "0002") == "0002"
    fleet.enrolled(MAILS)
    with ThreadPoolExecutor(1) as worker:
        sending = worker.submit(fleet.send)
        eventually(lambda: {"armed", "sent"} <= set(fleet.states()))
        assert migrate(fleet.database) == head()
        assert fleet.states()["sent"] < MAILS, "it waited for no mail"
        # The worker of before finds what becomes due in the new schema.
        due(fleet, "later.example.com")
        assert sending.result(60)["sent"] == 2 * MAILS

    due(fleet, "last.example.com")
    assert fleet.service.loop.join(10), "it drains"
    as_before.undo()
    new = Service(fleet.database, fleet.settings)
    try:
        ticket = new.store.answer("marketing", 500)
        assert ticket is not None and ticket.wait(30) == {"claimed": MAILS, "sent": MAILS}
    finally:
        new.loop.join(10)
    report = verify(
        fleet.database,
        DeliverySettings(),
        VerifySettings(),
        ledger=SinkLedger(fleet.sink.ledger),
    )
    assert report.clean and report.states == {"sent": 3 * MAILS}
    assert report.sink is not None and report.sink.known == 3 * MAILS
