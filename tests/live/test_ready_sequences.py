"""Each sequence that ships is sent once to the sink, all its mails, and each can be read in both parts."""

from __future__ import annotations

import json
import re
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from html import unescape
from pathlib import Path
from typing import Any, Final

from sqlalchemy import text

from schedules.definition import SendStep, Sequence
from schedules.ready import Ready, ready
from tasks.audience.store import ensure_topic
from tasks.sequence.publish import publish
from tests.live import seeds
from tests.live.fleet import Fleet
from workers.cli.proof import installed_templates, prove
from workers.embedded.ledger import read_mail

# Windows and quiet hours are the clock's business, and the holdout of a few people chance's.
_LIMITS = re.compile(r"^(?:limits:\n(?:  .*\n)+|holdout: .*\n)", re.MULTILINE)
ATTRIBUTES: Final = {
    "trial_ends_on": "2027-03-01", "renews_on": "2027-03-01", "appointment_on": "2027-03-01",
    "medication_ends_on": "2027-03-01", "plan_url": "https://shop.example/plans",
    "app_url": "https://shop.example/new", "confirm_url": "https://shop.example/yes",
    "shop_url": "https://shop.example/", "renewal_price": "€ 120", "purchases": 4,
}  # fmt: skip
EVENT: Final = {
    "url": "https://shop.example/go", "verify_url": "https://shop.example/v?a=1&b=2", "code": "123 456",
    "total": 30, "lines": [{"name": "Søren’s <lamp>", "price": "€ 19.90"}], "amount": "30.00",
    "payment_id": "P-1", "time": "14:30", "place": "Room 4", "goes_with": "a shade",
}  # fmt: skip
ENROLL = """
INSERT INTO enrollment (sequence_key, sequence_version, subscriber_id, due_at, event)
VALUES (:key, 1, :who, clock_timestamp(), CAST(:event AS jsonb))
"""
# Everybody's waits are over; who waits for a click has clicked.
CLICK = """
INSERT INTO event (subscriber_id, name, occurred_at, properties)
SELECT subscriber_id, 'email.clicked', clock_timestamp(), '{"sequence": "feature-announcement", "step": "announce"}'
FROM enrollment WHERE sequence_key = 'feature-announcement' AND step_id = 'click' AND active
"""
STUCK = "SELECT sequence_key, step_id, due_at, wait_rule FROM enrollment WHERE active"
ON = """
UPDATE enrollment SET due_at = clock_timestamp(), wait_rule = CASE WHEN wait_rule ? 'until'
    THEN jsonb_set(wait_rule, '{until}', to_jsonb(clock_timestamp())) ELSE wait_rule END
WHERE active AND due_at > clock_timestamp()
"""


OPT_IN = """
INSERT INTO consent (subscriber_id, topic, opted_in, source)
SELECT s.id, t.key, true, 'test' FROM subscriber s, topic t
"""
IN = "INSERT INTO segment_present VALUES ('loyal', :who, 1, now())"


def published(fleet: Fleet, each: Ready, folder: Path) -> Sequence:
    file = folder / f"{each.key}.yaml"
    file.write_text(_LIMITS.sub("", each.source), encoding="utf-8")
    [proved] = prove([str(file)], installed_templates()).require()
    sequence = proved.loaded.sequence
    with fleet.database.transaction() as connection:
        if sequence.topic:
            ensure_topic(connection, sequence.topic)
        publish(connection, proved.loaded, proved.source, proved.bundles, proved.prompts)
    return sequence


def run(fleet: Fleet, sql: str, **values: Any) -> None:
    with fleet.database.transaction() as connection:
        connection.execute(text(sql), values)


def mails(fleet: Fleet) -> dict[str, list[EmailMessage]]:
    """By recipient, as the sink has them."""
    told: dict[str, list[EmailMessage]] = {}
    for line in fleet.sink.lines():
        octets = read_mail(fleet.sink.ledger.parent, line)
        told.setdefault(line.rcpt, []).append(message_from_bytes(octets, policy=default))
    return told


def words_of(mail: EmailMessage, kind: str) -> str:
    """What a person reads of a part, without markup and what is hidden, on one line."""
    part = mail.get_body((kind,))
    assert part is not None, f"{mail['Subject']}: no part text/{kind}"
    said = part.get_content()
    if kind == "html":
        said = re.sub(
            r"<head>.*?</head>|<div style=\"display:none.*?</div>", " ", said, flags=re.DOTALL
        )
        said = unescape(re.sub(r"<[^>]+>", " ", said))
    return " ".join(re.sub(r"[:.,]", " ", said).split())


def test_all_of_its_mails_reach_the_sink_and_can_be_read_in_both_parts(
    fleet: Fleet, tmp_path: Path
) -> None:
    sequences = {each.key: published(fleet, each, tmp_path) for each in ready()}
    people = dict(zip(sequences, seeds.subscribers(fleet.database, len(sequences)), strict=True))
    run(fleet, "UPDATE subscriber SET attributes = CAST(:a AS jsonb)", a=json.dumps(ATTRIBUTES))
    run(fleet, OPT_IN)
    run(fleet, IN, who=people["loyalty"])
    for key, who in people.items():
        run(fleet, ENROLL, key=key, who=who, event=json.dumps(EVENT))
    for _ in range(20):
        fleet.scan()
        fleet.send("marketing")
        fleet.send("transactional")
        run(fleet, CLICK)
        run(fleet, ON)
        fleet.planner.meanwhile()
        if fleet.one("SELECT count(*) FROM enrollment WHERE active") == (0,):
            break
    else:
        with fleet.database.transaction() as connection:
            raise AssertionError(list(connection.execute(text(STUCK))))

    found = mails(fleet)
    for key, who in people.items():
        sequence = sequences[key]
        to = fleet.one("SELECT address FROM subscriber WHERE id = :who", who=who).address
        sends = [step for step in sequence.steps if isinstance(step, SendStep)]
        assert len(found[to]) == len(sends), f"{key}: each of its mails once"
        for mail in found[to]:
            assert mail.defects == [] and not any(part.defects for part in mail.walk())
            plain, html = words_of(mail, "plain"), words_of(mail, "html")
            assert not re.search(
                r"\{[{%]|\bNone\b|\bundefined\b", f"{mail['Subject']} {plain} {html}"
            )
            said = set(html.lower().split())
            assert len(said - set(plain.lower().split())) < 0.25 * len(said), (
                "the text says as much"
            )
            marketing = sequence.class_ == "marketing"
            assert ("Stop these mails" in html) is marketing
