"""`GET /v1/…`: what there is, in pages, newest first. Who may write may not read: scopes of their own."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.security import HTTPAuthorizationCredentials
from pydantic import BaseModel, Field
from sqlalchemy.exc import OperationalError

from models.session import Database
from models.states import State
from tasks import listed
from tasks.audience.api_key import ApiKey
from workers.edge.api import PROBLEMS
from workers.edge.callers import BEARER, Callers, caller
from workers.edge.mails import Standing, ThePost
from workers.edge.problem import Problem

BIGGEST = 2**63 - 1


class Subscriber(BaseModel):
    """Somebody who may be written to."""

    id: int
    external_id: str | None
    address: str
    first_name: str | None
    locale: str | None
    zone: str | None
    attributes: dict[str, Any]
    status: Literal["subscribed", "stopped"]
    stopped_at: dt.datetime | None
    stopped_reason: str | None
    created_at: dt.datetime
    updated_at: dt.datetime


class Message(BaseModel):
    """One mail, and how it stands; `subscriber` is an id."""

    id: int
    subscriber: int
    stream: str
    sequence: str | None
    version: int | None
    step: str | None
    entry: int | None
    template: str
    state: str
    reason: str | None
    attempts: int
    code: int | None
    due_at: dt.datetime | None
    created_at: dt.datetime
    terminal_at: dt.datetime | None


class Enrollment(BaseModel):
    """Somebody's way through a sequence; `due_at` is when the planner looks again."""

    id: int
    subscriber: int
    sequence: str
    version: int
    entry: int
    step: str | None
    active: bool
    due_at: dt.datetime | None
    entered_at: dt.datetime
    ended_at: dt.datetime | None
    end_reason: str | None


class Event(BaseModel):
    """Something that somebody did."""

    id: int
    subscriber: int
    name: str
    occurred_at: dt.datetime
    recorded_at: dt.datetime
    properties: dict[str, Any]


Row = TypeVar("Row", bound=BaseModel)


class Page(BaseModel, Generic[Row]):
    """Some of them, newest first."""

    data: list[Row]
    next: str | None = Field(description="The cursor of the next page; null at the end.")


class Reader:
    """What answers lists, of one process."""

    def __init__(self, database: Database, key: bytes) -> None:
        self._database = database
        self._key = key

    def page(self, what: str, cursor: str | None, limit: int, **filters: Any) -> dict[str, Any]:
        """One page.

        Raises:
            Problem: the cursor is none, or the filters fit so few that it takes too long.
        """
        for name, value in filters.items():
            if isinstance(value, str) and "\x00" in value:
                raise Problem(422, f"{name} holds something that is not text")
        try:
            with self._database.transaction() as connection:
                found = listed.page(
                    connection, what, filters, key=self._key, cursor=cursor, limit=limit
                )
        except listed.BadCursor as fault:
            raise Problem(400, str(fault)) from None
        except OperationalError as fault:
            if type(fault.orig).__name__ != "QueryCanceled":
                raise
            said = "too few fit to be found in five seconds; ask for one subscriber, or without filters"
            raise Problem(422, said) from None
        return {"data": found.data, "next": found.next}


def _reader(request: Request) -> Reader:
    reader: Reader = request.app.state.reader
    return reader


TheReader = Annotated[Reader, Depends(_reader)]
Cursor = Annotated[
    str | None, Query(max_length=200, description="`next` of the page before; none: the first.")
]
Limit = Annotated[int, Query(ge=1, le=listed.MOST, description="Rows of a page.")]
Who = Annotated[int | None, Query(ge=1, le=BIGGEST, description="The id of a subscriber.")]
Name = Annotated[str | None, Query(max_length=200)]

router = APIRouter(prefix="/v1", tags=["read"], responses=PROBLEMS)


@router.get(
    "/subscribers",
    summary="People",
    response_model=Page[Subscriber],
    dependencies=[Depends(caller("subscribers:read"))],
)
def subscribers(
    reader: TheReader,
    cursor: Cursor = None,
    limit: Limit = 100,
    external_id: Name = None,
    status: Literal["subscribed", "stopped"] | None = None,
) -> dict[str, Any]:
    """List people; who was erased is no more among them."""
    return reader.page("subscribers", cursor, limit, external_id=external_id, status=status)


@router.get(
    "/enrollments",
    summary="Ways through sequences",
    response_model=Page[Enrollment],
    dependencies=[Depends(caller("enrollments:read"))],
)
def enrollments(
    reader: TheReader,
    cursor: Cursor = None,
    limit: Limit = 100,
    subscriber: Who = None,
    sequence: Name = None,
    active: bool | None = None,
) -> dict[str, Any]:
    """List who is, or was, in a sequence."""
    return reader.page(
        "enrollments", cursor, limit, subscriber=subscriber, sequence=sequence, active=active
    )


@router.get(
    "/events",
    summary="What people did",
    response_model=Page[Event],
    dependencies=[Depends(caller("events:read"))],
)
def events(
    reader: TheReader,
    cursor: Cursor = None,
    limit: Limit = 100,
    subscriber: Who = None,
    name: Name = None,
) -> dict[str, Any]:
    """List events, those recorded last first."""
    return reader.page("events", cursor, limit, subscriber=subscriber, name=name)


OwnKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="With one it is the mail that this caller asked for under it, and its scope `messages`.",
    ),
]


async def _may_ask(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)],
    key: OwnKey = None,
) -> ApiKey:
    callers: Callers = request.app.state.callers
    scope = "messages:read" if key is None else "messages"
    return await callers.known(credentials.credentials if credentials else None, scope)


NOT_ASKED: dict[int | str, dict[str, Any]] = {
    404: {
        "description": "This caller asked for no mail under that Idempotency-Key.",
        "content": {"application/problem+json": {}},
    }
}


@router.get("/messages", summary="Mails, or one that was asked for", responses=NOT_ASKED)
def messages(
    reader: TheReader,
    post: ThePost,
    by: Annotated[ApiKey, Depends(_may_ask)],
    key: OwnKey = None,
    cursor: Cursor = None,
    limit: Limit = 100,
    subscriber: Who = None,
    sequence: Name = None,
    state: State | None = None,
) -> Page[Message] | Standing:
    """List mails; with an `Idempotency-Key`, tell how the one stands that was asked for under it."""
    if key is not None:
        return post.stands(by, key)
    found = reader.page(
        "messages",
        cursor,
        limit,
        subscriber=subscriber,
        sequence=sequence,
        state=None if state is None else state.value,
    )
    return Page[Message].model_validate(found)
