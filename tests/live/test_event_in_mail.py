"""A mail can say what happened: the properties of the event that let somebody in, as they were then."""

from __future__ import annotations

from email import message_from_bytes
from email.policy import default

from sqlalchemy import text

from tasks.send.dossier import dossier
from tasks.send.render import Bundle
from tests.live import seeds
from tests.live.door import BODY, Door
from tests.live.fleet import Fleet
from workers.embedded.ledger import read_mail

MAIL = Bundle(
    "test/mail",
    {
        "subject.txt": "Order {{ event.order | default('of yours') }}",
        "body.txt": "{% for item in event.lines | default([]) %}{{ item.name }} at {{ item.price }}\n"
        "{% endfor %}That is all.",
    },
)
EITHER = "trigger: {event: paused}, manual: true"


def mails(fleet: Fleet) -> dict[str, tuple[str, str]]:
    """Subject and text by recipient, as the sink has them."""
    told = {}
    for line in fleet.sink.lines():
        mail = message_from_bytes(read_mail(fleet.sink.ledger.parent, line), policy=default)
        text_part = mail.get_body(("plain",))
        assert text_part is not None
        told[str(mail["To"])] = (
            str(mail["Subject"]),
            text_part.get_content().replace("\r\n", "\n").strip(),
        )
    return told


def test_a_mail_says_what_let_somebody_in_and_nothing_to_who_came_by_hand(fleet: Fleet) -> None:
    door = Door(fleet.database, 2)
    seeds.sequence(fleet.database, BODY.format(key="door", entry=EITHER, more=""), {"m": MAIL})
    by_event, by_hand = door.people
    seeds.enroll(fleet.database, "door", [by_hand])
    door.run("INSERT INTO consent VALUES (:who, 'news', true, 'test')", who=by_event)
    event = door.event(by_event, order="A-7", lines=[{"name": "Søren's lamp", "price": 19.90}])
    door.act()
    door.run("DELETE FROM event WHERE id = :id", id=event)  # history may be pruned meanwhile
    fleet.scan()
    asked = fleet.one("SELECT rfc_message_id FROM message WHERE subscriber_id = :w", w=by_event)
    with fleet.database.transaction() as connection:
        shown = dossier(connection, asked.rfc_message_id, fleet.settings).mail
    assert shown is not None
    assert b"Subject: Order A-7" in shown.octets, "before its claim it is shown as it will be"
    fleet.send()
    assert mails(fleet) == {
        "person1@example.com": ("Order A-7", "Søren's lamp at 19.9\nThat is all."),
        "person2@example.com": ("Order of yours", "That is all."),
    }
    with fleet.database.transaction() as connection:
        kept = connection.execute(
            text("SELECT variables -> 'event' AS event FROM message")
        ).scalars()
        assert [each["order"] for each in kept if each] == ["A-7"]
