"""From a claimed row to a mail ready for the wire: compose, compare with what was frozen, sign.

What cannot become a mail is a value too: the store makes the move that it asks for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import text

from models.session import Database
from schedules.prompt import put_back
from tasks import return_path
from tasks.errors import Misconfigured, Permanent
from tasks.moves.claim import Claimed
from tasks.send.confine import Exploded, render_confined
from tasks.send.content import Facts, Sender, compose, unsubscribe_url
from tasks.send.edge import Edge, OfMail, Reach
from tasks.send.envelope import Envelope, WireBody, stuffed, wire_body
from tasks.send.gate import Gate
from tasks.send.links import Links, make_rows
from tasks.send.mail import Mail, Ticket
from tasks.send.render import Bundle, Rendered, files_of
from tasks.send.settings import SendSettings
from tasks.send.skeleton import skeleton
from tasks.send.tokens import Keys

if TYPE_CHECKING:
    from tasks.send.dkim import Keyring

# The wall time holds for a child with all its rows; a busy machine must not make a row guilty.
CONFINED_AT_ONCE = 25
CONFINED_WALL = 15.0

STREAM = text(
    "SELECT relay, sender, doubt_policy, class AS class_, tracking, return_path, provider"
    " FROM stream WHERE key = :key"
)
TEMPLATE = text("SELECT name, parts FROM template_source WHERE sha256 = :sha256")


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream as a doorbell finds it."""

    key: str
    relay: str
    sender: Sender
    may_resend: bool
    reach: Reach
    return_path: str | None = None
    provider: str | None = None


@dataclass(frozen=True, slots=True)
class Unsendable:
    """It cannot be rendered or composed: the row fails. `why` holds no value of a variable."""

    row: Claimed
    why: str


@dataclass(frozen=True, slots=True)
class Dangerous:
    """Its render took the child down: the row goes back, a crash the richer."""

    row: Claimed
    why: str


@dataclass(frozen=True, slots=True)
class Changed:
    """A copy may be out, and this mail would differ from it: the row stays in doubt, held."""

    row: Claimed


Prepared: TypeAlias = Mail | Unsendable | Dangerous | Changed


class Preparer:
    """Renders, composes and signs for one process; called from many threads.

    Raises:
        Misconfigured: a DKIM key cannot be used.
    """

    def __init__(self, database: Database, settings: SendSettings) -> None:
        self._database = database
        self._settings = settings
        self._edge = Edge(Links(make_rows(database), settings.edge_url), settings.edge_url)
        self._tokens = settings.keys
        self._keyring: Keyring | None = None
        if settings.dkim_keys:
            from tasks.send.dkim import Keyring  # late: 8 MB that not every worker needs

            self._keyring = Keyring.of(settings.dkim_keys)
        self.gate = Gate(settings, self._keyring)
        self._bundles: dict[bytes, Bundle] = {}

    def stream(self, key: str) -> Stream:
        """Read a stream, and who it writes as.

        Raises:
            Misconfigured: there is none of that name.
        """
        with self._database.transaction() as connection:
            row = connection.execute(STREAM, {"key": key}).one_or_none()
        if row is None:
            raise Misconfigured(f"no stream {key!r}; the table `stream` holds those there are")
        sender = self._settings.writes_as(row.sender)
        reach = Reach(row.class_ == "marketing", row.tracking)
        resend = row.doubt_policy == "resend"
        return Stream(key, row.relay, sender, resend, reach, row.return_path, row.provider)

    def mails(self, stream: Stream, rows: Sequence[Claimed], ticket: Ticket) -> Iterator[Prepared]:
        """Prepare each row; those that a crash is held against come last, and in a child."""
        suspects: dict[bytes | None, list[Claimed]] = defaultdict(list)
        for row in rows:
            if row.crashes and row.body is None:
                suspects[row.template_version].append(row)
            else:
                yield self._mail(stream, row, ticket, None)
        for version, group in suspects.items():
            yield from self._confined(stream, version, group, ticket)

    def variables(
        self, stream: Stream, message_id: int, frozen: dict[str, Any], edge: OfMail
    ) -> dict[str, Any]:
        """What the templates of a message see."""
        return {
            "subscriber": frozen,
            "words": put_back(frozen.get("words", {}), frozen),
            "event": frozen.get("event", {}),
            "sender": {
                "name": stream.sender.name,
                "postal_address": stream.sender.postal_address,
            },
            **edge.variables(message_id, unsubscribe_url(stream.sender, edge.token(message_id))),
        }

    def bundle(self, version: bytes | None) -> Bundle:
        """The sources of a template by hash.

        Raises:
            Permanent: there are none.
        """
        if version is None:
            raise Permanent("no template of that name is published; apply its sequence again")
        bundle = self._bundles.get(version)
        if bundle is None:
            with self._database.transaction() as connection:
                row = connection.execute(TEMPLATE, {"sha256": version}).one_or_none()
            if row is None:
                raise Permanent("the sources of its template are gone; apply its sequence again")
            bundle = self._bundles[version] = Bundle.of_stored(row.name, row.parts)
        return bundle

    def _confined(
        self, stream: Stream, version: bytes | None, rows: list[Claimed], ticket: Ticket
    ) -> Iterator[Prepared]:
        try:
            edge = self._edge.of(self.bundle(version), stream.reach, self._tokens)
        except Permanent as fault:
            yield from (Unsendable(row, str(fault)) for row in rows)
            return
        for start in range(0, len(rows), CONFINED_AT_ONCE):
            group = rows[start : start + CONFINED_AT_ONCE]
            wanted = [self.variables(stream, row.id, row.variables, edge) for row in group]
            results = render_confined(edge.tracked.bundle, wanted, wall_s=CONFINED_WALL)
            for row, result in zip(group, results, strict=True):
                if isinstance(result, Rendered):
                    yield self._mail(stream, row, ticket, result)
                elif isinstance(result, Exploded):
                    yield Dangerous(row, result.reason)
                else:
                    yield Unsendable(row, result.reason)

    def _mail(
        self, stream: Stream, row: Claimed, ticket: Ticket, rendered: Rendered | None
    ) -> Prepared:
        try:
            if row.body is not None and row.content_sha256 is not None:
                octets, sha256 = row.body, row.content_sha256
            else:
                octets, sha256 = self._compose(stream, row, rendered, self._tokens)
                for keys in self._tokens.others() if row.maybe_delivered else ():
                    # Its tokens may be of the key that signed when the first copy went.
                    if sha256 != row.content_sha256:
                        octets, sha256 = self._compose(stream, row, None, keys)
            if row.maybe_delivered and sha256 != row.content_sha256:
                return Changed(row)
            sender = self._settings.bounce_address or stream.sender.address
            if stream.return_path:
                sender = return_path.address(
                    self._tokens, stream.return_path, row.id, row.epoch, row.address
                )
            return Mail(
                row.id,
                row.epoch,
                row.subscriber_id,
                row.enrollment_id,
                stream.key,
                row.address,
                sha256,
                Envelope(sender, row.address),
                self._wire(stream, row, octets),
                ticket,
                octets if stream.may_resend and row.body is None else None,
            )
        except Permanent as fault:
            return Unsendable(row, str(fault))

    def _compose(
        self, stream: Stream, row: Claimed, rendered: Rendered | None, keys: Keys
    ) -> tuple[bytes, bytes]:
        edge = self._edge.of(self.bundle(row.template_version), stream.reach, keys)
        facts = Facts(
            row.rfc_message_id,
            row.address,
            row.frozen_at,
            row.effect_key,
            edge.token(row.id),
            edge.one_click(row.id),
        )
        if rendered is None:
            variables = self.variables(stream, row.id, row.variables, edge)
            laid = skeleton(edge.tracked.bundle, tuple(variables["sender"].items()))
            content = laid.compose(variables, message=facts, sender=stream.sender)
        else:
            files = files_of(edge.tracked.bundle, {"subscriber": row.variables})
            content = compose(rendered, message=facts, sender=stream.sender, files=files)
        return content.octets, content.sha256

    def _wire(self, stream: Stream, row: Claimed, octets: bytes) -> WireBody:
        """What travels: signed if there is a key, after the hash was taken."""
        if self._keyring is not None:
            octets = self._keyring.sign(octets, stream.sender.address, row.frozen_at) + octets
        if stream.provider:
            # For the provider alone, which takes it out: neither hashed nor signed.
            known = (row.id, row.epoch, row.address)
            octets = return_path.header(self._tokens, stream.provider, *known) + octets
        # What was composed just now has passed `content.check`; what was stored is looked at again.
        return stuffed(octets) if row.body is None else wire_body(octets)
