"""LMTP as a way in (RFC 2033): an MTA hands bounces over, and keeps them until they are committed.

Each recipient has its own answer, and all of a mail the same one: what was read and committed, or put
aside on disk, is 250; while Postgres is away it is 451, and the MTA tries again.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog
from aiosmtpd.controller import Controller, UnixSocketController
from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, Envelope, Session
from sqlalchemy.exc import SQLAlchemyError

from tasks.track.intake import LARGEST, Intake

log = structlog.get_logger()

RECIPIENTS: Final = 100


class Taking:
    """Takes mails for an intake, in threads: Postgres keeps no other conversation waiting."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Every address is taken: what is none of ours is put aside."""
        if len(envelope.rcpt_tos) >= RECIPIENTS:
            return "452 4.5.3 Too many recipients"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """One reply a recipient (RFC 2033 §4.2)."""
        content = envelope.content
        octets = content if isinstance(content, bytes) else str(content or "").encode()
        try:
            taken = await asyncio.to_thread(self._intake.take, octets, tuple(envelope.rcpt_tos))
            said = f"250 2.0.0 {taken}"
        except (SQLAlchemyError, OSError) as fault:
            log.warning("mail_not_taken", kind=type(fault).__name__)
            said = "451 4.3.0 It cannot be written down now; try again later"
        return "\r\n".join([said] * max(1, len(envelope.rcpt_tos)))


class _Lmtp(LMTP):  # type: ignore[misc]
    """aiosmtpd's, whose one reply our handler has written for every recipient.

    A bounce with a line beyond the standard's thousand octets is a bounce all the same.
    """

    line_length_limit = 1_000_000


def _factory(intake: Intake) -> Any:
    def factory() -> SMTP:
        return _Lmtp(
            Taking(intake),
            data_size_limit=LARGEST,
            enable_SMTPUTF8=True,
            ident="dripfleet inbound",
        )

    return factory


def server(intake: Intake, listen: str) -> Controller | UnixSocketController:
    """A server, to be started: on `HOST:PORT`, or on a socket file by its path.

    Raises:
        ValueError: `listen` is neither.
    """
    factory = _factory(intake)
    if listen.startswith(("/", "./")):

        class OnSocket(UnixSocketController):  # type: ignore[misc]
            def factory(self) -> SMTP:
                made: SMTP = factory()
                return made

        return OnSocket(None, listen)
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(
            f"{listen[:80]!r} is no place to listen on: expected HOST:PORT, or the path of a socket"
        )

    class OnPort(Controller):  # type: ignore[misc]
        def factory(self) -> SMTP:
            made: SMTP = factory()
            return made

    return OnPort(None, host.strip("[]") or "127.0.0.1", int(port))
