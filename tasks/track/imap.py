"""An IMAP mailbox as a way in (RFC 9051): mails above the last UID that was read, each once.

How far it was read stands in Postgres, committed after the mail is: who dies between reads one mail
twice, and the second time does nothing. Nothing is deleted there; what was read is marked as seen, for
people. A new UIDVALIDITY begins from the first mail again.
"""

from __future__ import annotations

import contextlib
import imaplib
import ssl
from collections.abc import Iterator
from typing import Final

from sqlalchemy import text

from models.session import Database
from tasks.errors import Misconfigured, Transient
from tasks.track.intake import LARGEST, Intake
from tasks.track.settings import Mailbox

PATIENCE: Final = 30.0
BATCH: Final = 200

PLACE = text("SELECT validity, uid FROM inbound_place WHERE mailbox = :mailbox")
# Two who read at once: the farther one stays.
REACHED = text("""
INSERT INTO inbound_place AS p (mailbox, validity, uid) VALUES (:mailbox, :validity, :uid)
ON CONFLICT (mailbox) DO UPDATE SET
    uid = CASE WHEN p.validity = excluded.validity THEN greatest(p.uid, excluded.uid) ELSE excluded.uid END,
    validity = excluded.validity, at = clock_timestamp()
""")


def read(intake: Intake, mailbox: Mailbox, most: int = BATCH) -> int:
    """Take at most `most` mails that were not read; returns how many.

    Raises:
        Transient: the server does not answer.
        Misconfigured: it refuses us, or there is no such mailbox.
    """
    try:
        with _opened(mailbox) as (server, validity):
            after = _place(intake.database, mailbox, validity)
            uids = sorted(uid for uid in _uids(server, after) if uid > after)[:most]
            for uid in uids:
                octets = _fetch(server, uid)
                if octets is not None:
                    intake.take(octets)
                values = {"mailbox": mailbox.name, "validity": validity, "uid": uid}
                with intake.database.transaction() as connection:
                    connection.execute(REACHED, values)
                with contextlib.suppress(imaplib.IMAP4.error):
                    server.uid("STORE", str(uid), "+FLAGS", "(\\Seen)")
            return len(uids)
    except (OSError, imaplib.IMAP4.abort, ssl.SSLError) as fault:
        raise Transient(
            f"the IMAP server {mailbox.host} does not answer ({type(fault).__name__}); what is there is"
            " read once it does"
        ) from fault
    except imaplib.IMAP4.error as fault:
        raise Transient(
            f"the IMAP server {mailbox.host} said no ({str(fault)[:80]}); it is asked again"
        ) from fault


@contextlib.contextmanager
def _opened(mailbox: Mailbox) -> Iterator[tuple[imaplib.IMAP4, int]]:
    server: imaplib.IMAP4
    if mailbox.tls:
        context = ssl.create_default_context()
        server = imaplib.IMAP4_SSL(
            mailbox.host, mailbox.port, ssl_context=context, timeout=PATIENCE
        )
    else:
        server = imaplib.IMAP4(mailbox.host, mailbox.port, timeout=PATIENCE)
    try:
        try:
            server.login(mailbox.user, mailbox.password)
        except imaplib.IMAP4.abort:
            raise
        except imaplib.IMAP4.error:
            raise Misconfigured(
                f"{mailbox.host} refuses the user {mailbox.user!r}; correct user or password in"
                " DRIPFLEET_INBOUND_IMAP"
            ) from None
        kind, _ = server.select(f'"{mailbox.folder}"')
        if kind != "OK":
            raise Misconfigured(
                f"there is no mailbox {mailbox.folder!r} at {mailbox.host}; correct the path in"
                " DRIPFLEET_INBOUND_IMAP"
            )
        told = server.response("UIDVALIDITY")[1]
        validity = int(told[0]) if told and told[0] else 0
        yield server, validity
    finally:
        with contextlib.suppress(OSError, imaplib.IMAP4.error):
            server.logout()


def _place(database: Database, mailbox: Mailbox, validity: int) -> int:
    with database.snapshot() as connection:
        row = connection.execute(PLACE, {"mailbox": mailbox.name}).one_or_none()
    return int(row.uid) if row is not None and row.validity == validity else 0


def _uids(server: imaplib.IMAP4, after: int) -> list[int]:
    # `n:*` names the last one also where it is below n (RFC 9051 §9, seq-range).
    _, told = server.uid("SEARCH", f"UID {after + 1}:*")
    return [int(each) for line in told if line for each in line.split() if each.isdigit()]


def _fetch(server: imaplib.IMAP4, uid: int) -> bytes | None:
    """The octets of a mail, without marking it; None: it is gone."""
    _, told = server.uid("FETCH", str(uid), f"(BODY.PEEK[]<0.{LARGEST + 1}>)")
    for each in told:
        if isinstance(each, tuple) and len(each) > 1 and isinstance(each[1], bytes):
            return each[1]
    return None
