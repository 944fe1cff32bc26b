"""`/v1/messages`: one transactional mail, now, to one person, once."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, Request
from pydantic import BaseModel, ConfigDict, Field

from models.session import Database
from tasks.audience import given
from tasks.audience.api_key import ApiKey
from tasks.audience.store import find
from tasks.moves import api_mail
from tasks.moves.effect import rfc_message_id
from tasks.moves.settings import DeliverySettings, IdentitySettings
from workers.edge.api import PROBLEMS
from workers.edge.callers import caller
from workers.edge.problem import Problem

MOST_DATA: Final = 50_000
"""Characters of what a mail is told, as JSON."""

Key = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="By which the mail is known: asked for again with the same one, it is the same mail.",
    ),
]


class Mail(BaseModel):
    """A mail to be sent; `data` is what its template sees as `event`."""

    model_config = ConfigDict(extra="forbid")

    template: str = Field(max_length=200, examples=["transaction-notice/receipt"])
    to: str = Field(max_length=320, description="An e-mail address.", examples=["zoe@example.com"])
    data: dict[str, Any] = Field(default_factory=dict, examples=[{"order": "81", "total": "12.50"}])


class Standing(BaseModel):
    """How a mail stands; `dripfleet message show ID` and `explain` tell the rest."""

    message: int
    state: str
    reason: str | None
    created_at: dt.datetime
    terminal_at: dt.datetime | None


class Post:
    """Takes mails for one process.

    Args:
        database: where they are written.
        identities: key of the subscribers' addresses.
        identity: what Message-IDs are made of.
        lifetime: a mail that was not sent in this time expires.
    """

    def __init__(
        self,
        database: Database,
        identities: bytes,
        identity: IdentitySettings,
        delivery: DeliverySettings,
    ) -> None:
        self._database = database
        self._identities = identities
        self._secret = identity.secret_message_id.get_secret_value().encode()
        self._domain = identity.domain
        self._lifetime = dt.timedelta(seconds=delivery.message_lifetime)

    def ask(self, asked: Mail, by: ApiKey, key: str) -> Standing:
        """Write the mail down; the next doorbell sends it.

        Raises:
            Problem: no such template, or an address that nobody can be written to at.
        """
        effect_key = api_mail.api_effect_key(by.id, key)
        if why := given.unfit(asked.data, MOST_DATA):
            raise Problem(422, f"data {why}")
        told = given.bring(
            self._database, [{"email": asked.to}], secret=self._identities, source=f"api {by.name}"
        )
        if told.refused:
            raise Problem(422, f"to: {told.refused[0]['reason']}")
        with self._database.transaction() as connection:
            who = find(connection, asked.to, self._identities)
            assert who is not None, "who was brought in is there"
            row = api_mail.ask(
                connection,
                who.id,
                asked.template,
                asked.data,
                effect_key=effect_key,
                rfc_message_id=rfc_message_id(self._secret, effect_key, self._domain),
                lifetime=self._lifetime,
            )
        if row is None:
            raise Problem(
                422,
                f"no template {asked.template!r} is published; a sequence that sends it publishes it"
                " (`dripfleet sequence apply FILE`)",
            )
        return _standing(row)

    def stands(self, by: ApiKey, key: str) -> Standing:
        """How a mail stands that this caller asked for.

        Raises:
            Problem: it asked for none under this key.
        """
        with self._database.snapshot() as connection:
            row = api_mail.stands(connection, api_mail.api_effect_key(by.id, key))
        if row is None:
            raise Problem(404, "this caller asked for no mail under that Idempotency-Key")
        return _standing(row)


def _standing(row: Any) -> Standing:
    return Standing(
        message=row.id,
        state=row.state,
        reason=row.reason,
        created_at=row.created_at,
        terminal_at=row.terminal_at,
    )


def _post(request: Request) -> Post:
    post: Post = request.app.state.post
    return post


ThePost = Annotated[Post, Depends(_post)]
By = Annotated[ApiKey, Depends(caller("messages"))]
router = APIRouter(prefix="/v1", tags=["mail"], responses=PROBLEMS)


@router.post("/messages", status_code=202, summary="Send one transactional mail")
def ask(asked: Mail, post: ThePost, by: By, key: Key) -> Standing:
    """Send a published template to somebody, once for this caller and key, through the transactional stream.

    Who was stopped, or whose address is suppressed, gets nothing: the mail then ends `suppressed`.
    """
    return post.ask(asked, by, key)
