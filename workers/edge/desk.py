"""A desk at which a mail's reader is answered by pages: whose token it is, and in which language.

What is no token at all is told so; a token that opens nothing is answered as one that does.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from fastapi import Header
from fastapi.responses import HTMLResponse

from models.session import Database
from tasks.send.tokens import KEY_ID, Keys, Purpose, read
from workers.edge import pages

TOKEN: Final = re.compile(rf"{KEY_ID}\.[\w-]{{11}}\.[\w-]{{22}}", re.ASCII)
NOTHING: Final[dict[int | str, dict[str, Any]]] = {
    404: {"description": "This is no token.", "content": {"text/html": {}}}
}
Language = Annotated[str, Header(alias="accept-language")]


class Desk:
    """What the desks of the edge share.

    Args:
        database: where it is written.
        keys: of the tokens.
        sender: whose pages these are.
    """

    purpose: Purpose

    def __init__(self, database: Database, keys: Keys, sender: str) -> None:
        self._database = database
        self._keys = keys
        self._sender = sender

    def _message(self, token: str) -> int | None:
        """The mail that a genuine token of this desk is of."""
        ids = read(self._keys, self.purpose, token)
        return ids[0] if ids is not None and len(ids) == 1 else None

    def _nothing(self, accepted: str) -> HTMLResponse:
        language = pages.language_of(None, accepted)
        return self._page("done.html", language, "not_here_title", 404, what="not_here", back=False)

    def _page(
        self, name: str, language: str, title: str, status: int = 200, **values: object
    ) -> HTMLResponse:
        html = pages.page(
            name, language, title=title, sender=self._sender, **{"here": "", **values}
        )
        return HTMLResponse(html, status, {"Content-Language": language})
