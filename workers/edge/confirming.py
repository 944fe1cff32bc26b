"""`/confirm/TOKEN`: the page that a mail about a sign-up leads to. A GET asks, a POST confirms.

As at the way out, looking acts on nothing, and a token that opens nothing is answered as one that does.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse

from tasks.audience import confirming
from tasks.moves import opt_in
from workers.edge import pages
from workers.edge.desk import NOTHING, TOKEN, Desk, Language


class Registrar(Desk):
    """Who takes confirmations."""

    purpose = "confirm"

    def ask(self, token: str, accepted: str) -> HTMLResponse:
        """The page with the button."""
        if not TOKEN.fullmatch(token):
            return self._nothing(accepted)
        return self._asking(self._language(self._message(token), accepted), token)

    def confirm(self, token: str, accepted: str) -> HTMLResponse:
        """The button was pressed."""
        if not TOKEN.fullmatch(token):
            return self._nothing(accepted)
        message = self._message(token)
        language = self._language(message, accepted)
        if message is not None:
            shown = hashlib.sha256(self._asking(language, "").body).hexdigest()[:12]
            with self._database.transaction() as connection:
                confirming.confirm(connection, message, f"{language} {shown}")
        return self._page("done.html", language, "confirmed_title", what="confirmed", back=False)

    def _language(self, message: int | None, accepted: str) -> str:
        with self._database.snapshot() as connection:
            row = None if message is None else opt_in.asked_by(connection, message)
        return pages.language_of(None if row is None else row.locale, accepted)

    def _asking(self, language: str, token: str) -> HTMLResponse:
        return self._page("confirm.html", language, "confirm_title", here=token)


def _registrar(request: Request) -> Registrar:
    registrar: Registrar = request.app.state.registrar
    return registrar


router = APIRouter(tags=["confirming"], default_response_class=HTMLResponse, responses=NOTHING)
TheRegistrar = Annotated[Registrar, Depends(_registrar)]


@router.get("/confirm/{token}", summary="A page that asks for a confirmation")
@router.head("/confirm/{token}", include_in_schema=False)
def ask(token: str, registrar: TheRegistrar, accepted: Language = "") -> HTMLResponse:
    """Show the button; nothing is changed by looking, since scanners follow every link."""
    return registrar.ask(token, accepted)


@router.post("/confirm/{token}", summary="The sign-up is confirmed")
def confirm(token: str, registrar: TheRegistrar, accepted: Language = "") -> HTMLResponse:
    """Write the consent that was asked for, once."""
    return registrar.confirm(token, accepted)
