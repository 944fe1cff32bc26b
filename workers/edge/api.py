"""`/v1`: events, subscribers and enrollments from other systems, by the same ways as from files.

Each call takes many, says what became of each, and may come twice: with an `Idempotency-Key` it is
answered as before, and without one it does nothing again either.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import text

from models.session import Database
from tasks.audience import given, track
from tasks.audience.address import RefusedAddress, address_hmac, parse
from tasks.audience.api_key import ApiKey
from tasks.audience.store import check_secret
from tasks.moves.opt_in import Asker
from tasks.sequence.enroll import BATCH, enroll_identities
from workers.edge import answers
from workers.edge.callers import caller

BY_EXTERNAL_ID = text("""
SELECT external_id, address_hmac FROM subscriber WHERE external_id = ANY(CAST(:ids AS text[]))
""")

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="Any text of the caller's own, up to 200 characters; the same again is answered as"
        " before, for 30 days.",
    ),
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Events(_Model):
    """What subscribers did, as of `track.record`."""

    source: str = Field(
        max_length=200, description="Who gives the `source_id`s out.", examples=["shop"]
    )
    events: list[dict[str, Any]] = Field(
        min_length=1,
        max_length=track.MOST,
        description="Each has `email` or `external_id`, `name` and `source_id` (the same one of a source is"
        " recorded once), and as wanted `occurred_at` (ISO 8601; by default now) and `properties`.",
        examples=[
            [
                {
                    "external_id": "crm-4711",
                    "name": "purchase",
                    "source_id": "81",
                    "properties": {"amount": 12.5},
                }
            ]
        ],
    )


class Recorded(BaseModel):
    """What became of the events; refused ones are kept (`dripfleet events refused`)."""

    new: int
    known: int
    refused: int


class Subscribers(_Model):
    """People, as of a file for `subscribers import`."""

    subscribers: list[dict[str, Any]] = Field(
        min_length=1,
        max_length=given.MOST,
        description="Each has `email`, and as wanted `external_id`, `first_name`, `locale`, `zone`,"
        " `attributes` (text, numbers, true or false) and `topics` (true or false).",
        examples=[
            [
                {
                    "email": "zoe@example.com",
                    "first_name": "Zoë",
                    "topics": {"product-news": True},
                    "attributes": {"orders": 3},
                }
            ]
        ],
    )


class Refusal(BaseModel):
    """One that was not taken: its place in the request, and why."""

    index: int
    reason: str


class Brought(BaseModel):
    """What became of the subscribers; `pending`: sign-ups that wait for a confirmation by mail."""

    new: int
    updated: int
    unchanged: int
    duplicates: int
    consents: int
    pending: int
    refused: list[Refusal]


class Enrollments(_Model):
    """Who is to come into a sequence, as by `enqueue`."""

    sequence: str = Field(max_length=200, examples=["win-back"])
    emails: list[str] = Field(default_factory=list, max_length=BATCH)
    external_ids: list[str] = Field(default_factory=list, max_length=BATCH)


class Enrolled(BaseModel):
    """What became of them; each counts once, at the first reason."""

    enrolled: int
    already_enrolled: int
    stopped: int
    suppressed: int
    refused: int
    waiting: int
    unknown: int


class Writer:
    """What writes for `/v1`, of one process."""

    def __init__(self, database: Database, identities: bytes, asker: Asker | None = None) -> None:
        self._asker = asker
        self.database = database
        self.identities = identities
        self._checked = False

    def require_secret(self) -> None:
        """See once that the subscribers stand under our key: else everybody would be somebody new.

        Raises:
            Misconfigured: they do not.
        """
        if not self._checked:
            with self.database.snapshot() as connection:
                check_secret(connection, self.identities)
            self._checked = True

    def events(self, asked: Events) -> dict[str, Any]:
        """As `track.record`."""
        payload = {"source": asked.source, "events": asked.events}
        return dict(track.record(self.database, self.identities, payload))

    def subscribers(self, asked: Subscribers, source: str) -> dict[str, Any]:
        """As `subscribers import`."""
        told = given.bring(self.database, asked.subscribers, secret=self.identities, source=source)
        if told.pending and self._asker is not None:
            self._asker.ask_all(self.database)
        return {
            "new": told.new,
            "updated": told.updated,
            "unchanged": told.unchanged,
            "duplicates": told.duplicates,
            "consents": told.consents,
            "pending": told.pending,
            "refused": told.refused,
        }

    def enrollments(self, asked: Enrollments) -> dict[str, Any]:
        """As `enqueue --emails`."""
        identities: dict[bytes, None] = {}
        unknown = 0
        for email in asked.emails:
            try:
                identities[address_hmac(self.identities, parse(email.strip()))] = None
            except RefusedAddress:
                unknown += 1
        ids = [each for each in dict.fromkeys(asked.external_ids) if "\x00" not in each]
        unknown += len({*asked.external_ids}) - len(ids)
        with self.database.snapshot() as connection:
            found = {
                row.external_id: bytes(row.address_hmac)
                for row in connection.execute(BY_EXTERNAL_ID, {"ids": ids})
            }
        unknown += len(ids) - len(found)
        identities |= dict.fromkeys(found.values())
        wanted = list(identities)
        told = enroll_identities(self.database, asked.sequence, wanted[:BATCH])
        for start in range(BATCH, len(wanted), BATCH):
            more = enroll_identities(self.database, asked.sequence, wanted[start : start + BATCH])
            told = told.plus(more)
        names = Enrolled.model_fields.keys() - {"unknown"}
        return {name: getattr(told, name) for name in names} | {"unknown": told.unknown + unknown}


def _writer(request: Request) -> Writer:
    writer: Writer = request.app.state.writer
    return writer


TheWriter = Annotated[Writer, Depends(_writer)]
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": said, "content": {"application/problem+json": {}}}
    for status, said in (
        (400, "The Idempotency-Key, or the cursor, is none."),
        (401, "No key, or one that is not good."),
        (403, "The key may not do this."),
        (409, "The same request is being worked on."),
        (413, "Larger than DRIPFLEET_EDGE_BODY."),
        (422, "Not of this shape, or nothing that can be done."),
        (429, "Too often; `Retry-After` says when again."),
        (503, "The database does not answer; send it again."),
    )
}

router = APIRouter(prefix="/v1", tags=["write"], responses=PROBLEMS)


@router.post("/events", summary="Record what subscribers did", response_model=Recorded)
def events(
    asked: Events,
    response: Response,
    writer: TheWriter,
    by: Annotated[ApiKey, Depends(caller("events"))],
    key: Key = None,
) -> dict[str, Any]:
    """Record events, each once; they wake waits, let people into sequences and count in conditions."""
    return _once(writer, by, key, asked, response, lambda: writer.events(asked))


@router.post("/subscribers", summary="Bring people in", response_model=Brought)
def subscribers(
    asked: Subscribers,
    response: Response,
    writer: TheWriter,
    by: Annotated[ApiKey, Depends(caller("subscribers"))],
    key: Key = None,
) -> dict[str, Any]:
    """Bring subscribers in or up to date; what is refused is told by its place, and stops no other."""
    source = f"api {by.name}"
    return _once(writer, by, key, asked, response, lambda: writer.subscribers(asked, source))


@router.post("/enrollments", summary="Bring people into a sequence", response_model=Enrolled)
def enrollments(
    asked: Enrollments,
    response: Response,
    writer: TheWriter,
    by: Annotated[ApiKey, Depends(caller("enrollments"))],
    key: Key = None,
) -> dict[str, Any]:
    """Enroll people who are there, each once; who is in it, or was, is left alone."""
    return _once(writer, by, key, asked, response, lambda: writer.enrollments(asked))


def _once(
    writer: Writer,
    by: ApiKey,
    key: str | None,
    asked: BaseModel,
    response: Response,
    work: Any,
) -> dict[str, Any]:
    writer.require_secret()
    request = f"{type(asked).__name__}\n{asked!r}"
    said = answers.once(writer.database, by.id, key, request, work)
    if said.again:
        response.headers["Idempotency-Replayed"] = "true"
    return said.content
