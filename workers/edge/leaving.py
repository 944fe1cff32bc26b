"""`/u/TOKEN`: a page that asks, the one click of mail programs (RFC 8058), and what a reader chose.

A GET acts on nothing: scanners follow every link. Any POST to the link takes the reader off, whatever
its body says, without cookie, login or redirect. A token that opens nothing is answered as one that
does, so nobody learns by trying which mail there is; only what is no token at all is told so.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Final
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse
from starlette.concurrency import run_in_threadpool

from tasks.audience import leaving
from workers.edge import pages
from workers.edge.desk import NOTHING, TOKEN, Desk, Language

MOST_FIELDS: Final = 500
_SNOOZES: Final = {"0": 0, "7": 7, "30": 30, "90": 90}


class Counter(Desk):
    """Who answers at the way out."""

    purpose = "unsubscribe"

    def ask(self, token: str, accepted: str) -> HTMLResponse:
        """The page to choose on."""
        if not TOKEN.fullmatch(token):
            return self._nothing(accepted)
        with self._database.snapshot() as connection:
            found = leaving.reader(connection, self._message(token))
        language = pages.language_of(found.locale, accepted)
        return self._page("choose.html", language, "choose_title", reader=found, here=token)

    def leave(self, token: str, accepted: str, how: leaving.How) -> HTMLResponse:
        """Take the reader off all marketing."""
        if not TOKEN.fullmatch(token):
            return self._nothing(accepted)
        message = self._message(token)
        language = self._language(message, accepted)
        if message is not None:
            with self._database.transaction() as connection:
                leaving.leave(connection, message, how)
        return self._done(language, "left", token, back=False)

    def choose(self, token: str, accepted: str, form: dict[str, list[str]]) -> HTMLResponse:
        """Write what was chosen on the page."""
        if not TOKEN.fullmatch(token):
            return self._nothing(accepted)
        message = self._message(token)
        language = self._language(message, accepted)
        wanted = {*form.get("topic", ())}
        answers = {key: key in wanted for key in form.get("shown", ())}
        days = _SNOOZES.get(form.get("snooze", [""])[0])
        if message is not None:
            pause = None if days is None else dt.timedelta(days=days)
            with self._database.transaction() as connection:
                leaving.choose(connection, message, answers, pause)
        return self._done(language, "saved", f"../{token}", back=True)

    def _language(self, message: int | None, accepted: str) -> str:
        with self._database.snapshot() as connection:
            return pages.language_of(leaving.reader(connection, message).locale, accepted)

    def _done(self, language: str, what: str, here: str, *, back: bool) -> HTMLResponse:
        return self._page("done.html", language, f"{what}_title", what=what, here=here, back=back)


def _counter(request: Request) -> Counter:
    counter: Counter = request.app.state.counter
    return counter


router = APIRouter(tags=["leaving"], default_response_class=HTMLResponse, responses=NOTHING)
TheCounter = Annotated[Counter, Depends(_counter)]


@router.get("/u/{token}", summary="A page that asks")
@router.head("/u/{token}", include_in_schema=False)
def ask(token: str, counter: TheCounter, accepted: Language = "") -> HTMLResponse:
    """Show what the reader of a mail may choose; nothing is changed by looking."""
    return counter.ask(token, accepted)


@router.post("/u/{token}", summary="One click: no marketing mail any more")
async def leave(
    request: Request, token: str, counter: TheCounter, accepted: Language = ""
) -> HTMLResponse:
    """Take the reader of a mail off, at once, also for what is queued; the body may be anything."""
    form = _fields(await request.body())
    how: leaving.How = "page" if form.get("from") == ["page"] else "one-click"
    return await run_in_threadpool(counter.leave, token, accepted, how)


@router.post("/u/{token}/preferences", summary="What a reader chose on the page")
async def choose(
    request: Request, token: str, counter: TheCounter, accepted: Language = ""
) -> HTMLResponse:
    """Write topics and a pause, as a form: `shown` and `topic` are keys, `snooze` is days."""
    form = _fields(await request.body())
    return await run_in_threadpool(counter.choose, token, accepted, form)


def _fields(body: bytes) -> dict[str, list[str]]:
    """A form's fields; what is no form has none."""
    try:
        return parse_qs(body.decode("utf-8", "replace"), max_num_fields=MOST_FIELDS)
    except ValueError:
        return {}
