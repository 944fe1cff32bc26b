"""From due rows to mails ready for the wire: claim, render, compose, keep, hand over."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from email.utils import parseaddr
from functools import partial
from typing import Any, Protocol

import structlog
from sqlalchemy import text

from models.session import Database
from tasks.errors import Misconfigured, Permanent
from tasks.moves import doubt, release
from tasks.moves.claim import Claimed, claim, keep_content
from tasks.moves.settings import DeliverySettings
from tasks.send.confine import Exploded, render_confined
from tasks.send.content import Facts, Sender, compose, unsubscribe_token, unsubscribe_url
from tasks.send.envelope import Envelope, wire_body
from tasks.send.mail import Mail, Ticket
from tasks.send.render import Bundle, Rendered, compiled
from tasks.send.settings import SendSettings

log = structlog.get_logger()

FULL_LOOK = 5.0  # seconds between looks that begin at the oldest row, cursor or not
SLICE = 50  # mails that are handed over while the next ones are rendered

STREAM = text("SELECT relay, sender, doubt_policy FROM stream WHERE key = :key")
TEMPLATE = text("SELECT name, parts FROM template_source WHERE sha256 = :sha256")


class Room(Protocol):
    """What the store asks of the delivery loop."""

    owner: str

    def reserve(self, relay: str, n: int) -> int:
        """Room for up to n rows."""
        ...

    def release(self, n: int) -> None:
        """Room that was not used."""
        ...

    def submit(self, relay: str, mails: list[Mail]) -> None:
        """Hand mails over."""
        ...


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream as a doorbell finds it."""

    key: str
    relay: str
    sender: Sender
    may_resend: bool


class Store:
    """Claims and prepares for one process; its methods are called from many task threads."""

    def __init__(
        self, database: Database, loop: Room, settings: SendSettings, delivery: DeliverySettings
    ) -> None:
        self._database = database
        self._loop = loop
        self._settings = settings
        self._delivery = delivery
        self._token_secret = settings.secret_token.get_secret_value().encode()
        self._cursors: dict[str, dt.datetime] = {}
        self._full_looks: dict[str, float] = {}
        self._bundles: dict[bytes, Bundle] = {}
        self._lock = threading.Lock()

    def answer(self, stream_key: str, n: int) -> Ticket | None:
        """Claim up to `n` due messages of a stream and hand them to the loop.

        Returns:
            What to wait on; None where the loop has no room, or nothing is due.
        """
        stream = self._stream(stream_key)
        granted = self._loop.reserve(stream.relay, n)
        if not granted:
            return None
        try:
            rows = self._claim(stream_key, granted)
        except BaseException:
            self._loop.release(granted)
            raise
        if len(rows) < granted:
            self._loop.release(granted - len(rows))
        if not rows:
            return None
        ticket = Ticket(len(rows))
        left = {row.id: row for row in rows}
        try:
            self._prepare(stream, rows, ticket, left)
        finally:
            if left:  # a fault on the way: their rows go back now, not when the lease ends
                self._back(list(left.values()), ticket)
        return ticket

    def _stream(self, key: str) -> Stream:
        with self._database.transaction() as connection:
            row = connection.execute(STREAM, {"key": key}).one_or_none()
        if row is None:
            raise Misconfigured(f"no stream {key!r}; the table `stream` holds those there are")
        sender = self._settings.sender
        if row.sender:
            name, address = parseaddr(row.sender)
            sender = Sender(
                name or sender.name, address, sender.postal_address, sender.unsubscribe_mailto
            )
        return Stream(key, row.relay, sender, row.doubt_policy == "resend")

    def _claim(self, stream: str, n: int) -> list[Claimed]:
        now = time.monotonic()
        with self._lock:
            full = now - self._full_looks.get(stream, -FULL_LOOK) >= FULL_LOOK
            if full:
                self._full_looks[stream] = now
            cursor = None if full else self._cursors.get(stream)
        with self._database.transaction() as connection:
            claimed = claim(
                connection,
                stream=stream,
                n=n,
                owner=self._loop.owner,
                lease=self._delivery.working_lease,
                cursor=cursor,
            )
        if claimed.cursor is not None:
            with self._lock:
                before = self._cursors.get(stream)
                self._cursors[stream] = max(claimed.cursor, before or claimed.cursor)
        return claimed.rows

    def _prepare(
        self, stream: Stream, rows: list[Claimed], ticket: Ticket, left: dict[int, Claimed]
    ) -> None:
        unfit = [row for row in rows if row.unfit]
        if unfit:
            with self._database.transaction() as connection:
                told = release.refuse(
                    connection,
                    [(row.id, row.epoch, row.address, False) for row in unfit],
                    self._delivery,
                )
            states = {row_id: state for row_id, state, _ in told}
            for row in unfit:
                self._end(row, ticket, left, states.get(row.id, "dropped"))
        fit = [row for row in rows if not row.unfit]
        tame = [row for row in fit if not row.crashes]
        for start in range(0, len(tame), SLICE):
            mails = [
                mail
                for row in tame[start : start + SLICE]
                if (mail := self._mail(stream, row, ticket, left, None)) is not None
            ]
            self._hand_over(stream, mails, left)
        by_template: dict[bytes | None, list[Claimed]] = defaultdict(list)
        for row in fit:
            if row.crashes:
                by_template[row.template_version].append(row)
        for version, group in by_template.items():
            mails = self._confined(stream, version, group, ticket, left)
            self._hand_over(stream, mails, left)

    def _confined(
        self,
        stream: Stream,
        version: bytes | None,
        rows: list[Claimed],
        ticket: Ticket,
        left: dict[int, Claimed],
    ) -> list[Mail]:
        """Rows that took a worker down: rendered in a child, which may die in their place."""
        try:
            bundle = self._bundle(version)
        except Permanent as fault:
            for row in rows:
                self._fail(row, ticket, left, fault)
            return []
        results = render_confined(bundle, [self._variables(stream, row) for row in rows])
        mails = []
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, Rendered):
                mail = self._mail(stream, row, ticket, left, result)
                if mail is not None:
                    mails.append(mail)
            elif isinstance(result, Exploded):
                back = release.Returned(
                    row.id, row.epoch, "render_exploded", 0.0, "render", crashed=True
                )
                log.warning("render_exploded", message=row.id, epoch=row.epoch, why=result.reason)
                with self._database.transaction() as connection:
                    release.give_back(connection, [back], self._loop.owner, self._delivery)
                self._end(row, ticket, left, "given_back")
            else:
                self._fail(row, ticket, left, Permanent(result.reason))
        return mails

    def _mail(
        self,
        stream: Stream,
        row: Claimed,
        ticket: Ticket,
        left: dict[int, Claimed],
        rendered: Rendered | None,
    ) -> Mail | None:
        try:
            if row.body is not None and row.content_sha256 is not None:
                octets, sha256 = row.body, row.content_sha256
            else:
                if rendered is None:
                    bundle = self._bundle(row.template_version)
                    rendered = compiled(bundle).render(self._variables(stream, row))
                content = compose(
                    rendered,
                    message=Facts(
                        row.rfc_message_id,
                        row.address,
                        row.frozen_at,
                        row.effect_key,
                        unsubscribe_token(self._token_secret, "k1", row.id),
                    ),
                    sender=stream.sender,
                )
                octets, sha256 = content.octets, content.sha256
            if row.maybe_delivered and sha256 != row.content_sha256:
                self._hold(row, ticket, left)
                return None
            sender = self._settings.bounce_address or stream.sender.address
            return Mail(
                row.id,
                row.epoch,
                row.subscriber_id,
                row.enrollment_id,
                stream.key,
                row.address,
                sha256,
                Envelope(sender, row.address),
                wire_body(octets),
                ticket,
                octets if stream.may_resend and row.body is None else None,
            )
        except Permanent as fault:
            self._fail(row, ticket, left, fault)
            return None

    def _variables(self, stream: Stream, row: Claimed) -> dict[str, Any]:
        token = unsubscribe_token(self._token_secret, "k1", row.id)
        return {
            "subscriber": row.variables,
            "sender": {
                "name": stream.sender.name,
                "postal_address": stream.sender.postal_address,
            },
            "unsubscribe": {"mailto": unsubscribe_url(stream.sender, token)},
        }

    def _bundle(self, version: bytes | None) -> Bundle:
        if version is None:
            raise Permanent("no template of that name is published; apply its sequence again")
        bundle = self._bundles.get(version)
        if bundle is None:
            with self._database.transaction() as connection:
                row = connection.execute(TEMPLATE, {"sha256": version}).one_or_none()
            if row is None:
                raise Permanent("the sources of its template are gone; apply its sequence again")
            bundle = self._bundles[version] = Bundle(row.name, row.parts)
        return bundle

    def _hand_over(self, stream: Stream, mails: list[Mail], left: dict[int, Claimed]) -> None:
        if not mails:
            return
        if stream.may_resend:
            with self._database.transaction() as connection:
                keep_content(
                    connection,
                    [(m.id, m.content_sha256, m.kept) for m in mails if m.kept is not None],
                )
        self._loop.submit(stream.relay, mails)
        for mail in mails:
            del left[mail.id]

    def _end(self, row: Claimed, ticket: Ticket, left: dict[int, Claimed], outcome: str) -> None:
        del left[row.id]
        self._loop.release(1)
        ticket.settle("given_back" if outcome == "scheduled" else outcome)

    def _fail(
        self, row: Claimed, ticket: Ticket, left: dict[int, Claimed], fault: Permanent
    ) -> None:
        # The sentence names file and line, never a value: it may stand in the row and in the log.
        log.warning("mail_not_composed", message=row.id, epoch=row.epoch, why=str(fault))
        with self._database.transaction() as connection:
            release.fail(
                connection, [release.Failed(row.id, row.epoch, f"render: {fault}", "render")]
            )
        self._end(row, ticket, left, "failed")

    def _hold(self, row: Claimed, ticket: Ticket, left: dict[int, Claimed]) -> None:
        """A copy may be out and this one would differ from it: it stays in doubt, held."""
        log.warning("content_changed", message=row.id, epoch=row.epoch)
        back = release.Returned(row.id, row.epoch, "content_changed", 0.0, "render")
        with self._database.transaction() as connection:
            release.give_back(connection, [back], self._loop.owner, self._delivery)
            doubt.hold_back(connection, [(row.id, row.epoch)], "content_changed")
        self._end(row, ticket, left, "in_doubt")

    def _back(self, rows: list[Claimed], ticket: Ticket) -> None:
        back = partial(release.Returned, reason="fault_of_ours", delay=None, stage="render")
        try:
            with self._database.transaction() as connection:
                release.give_back(
                    connection,
                    [back(row.id, row.epoch) for row in rows],
                    self._loop.owner,
                    self._delivery,
                )
        finally:
            self._loop.release(len(rows))
            ticket.settle("given_back", len(rows))
