"""A subscriber whose address is not ASCII, from the planner to the sink."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from tests.live import seeds
from tests.live.fleet import Fleet


def enrolled(fleet: Fleet, *addresses: str) -> None:
    with fleet.database.transaction() as connection:
        rows = connection.execute(
            text(
                "INSERT INTO subscriber (address, address_hmac, first_name)"
                " SELECT a, sha256(a::bytea), 'Zoë' FROM unnest(CAST(:all AS text[])) a RETURNING id"
            ),
            {"all": list(addresses)},
        )
        ids = sorted(rows.scalars())
    source = seeds.ONE_MAIL.format(class_="marketing", template="test/mail")
    seeds.enroll(fleet.database, seeds.sequence(fleet.database, source), ids)
    fleet.scan()


ENDS = """
SELECT s.address, m.state::text, m.reason, m.attempts, m.last_stage, t.paused_at
FROM message m JOIN subscriber s ON s.id = m.subscriber_id JOIN stream t ON t.key = m.stream
ORDER BY s.address
"""


@pytest.mark.parametrize("offered", [True, False], ids=["offered", "not offered"])
def test_it_is_sent_where_the_relay_takes_it_and_ends_with_its_reason_elsewhere(
    fleet: Fleet, offered: bool
) -> None:
    fleet.sink.desk.smtputf8 = offered
    enrolled(fleet, "ada@example.com", "zoë@example.com", "zoe@müller.de")
    fleet.send()
    with fleet.database.transaction() as connection:
        ends = {row[0]: tuple(row[1:]) for row in connection.execute(text(ENDS))}
    sent = ("sent", "accepted", 1, "dot", None)
    refused = ("failed", "smtputf8_unsupported", 0, "mail", None)
    assert ends == {
        "ada@example.com": sent,
        "zoe@müller.de": sent,
        "zoë@example.com": sent if offered else refused,
    }
    arrived = {line.rcpt for line in fleet.sink.lines()}
    assert ("zoë@example.com" in arrived) is offered
    assert {"ada@example.com", "zoe@xn--mller-kva.de"} <= arrived
