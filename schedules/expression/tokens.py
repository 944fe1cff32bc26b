"""The words and signs of an expression, each with its place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from schedules.expression.nodes import ExpressionError

LONGEST: Final = 2000
"""Characters; what is longer is better said in several steps."""
MOST_TOKENS: Final = 200

_TOKENS: Final = 400
DEEPEST: Final = 40
"""Bounds on the tree: whoever walks it does so by recursion."""

_TOKEN: Final = re.compile(
    r"\s*(?:(?P<number>[0-9]+(?:\.[0-9]+)?(?![A-Za-z_0-9.]))"
    r"|(?P<text>'[^']*'|\"[^\"]*\")"
    r"|(?P<word>[A-Za-z_][A-Za-z_0-9]*)"
    r"|(?P<sign>==|!=|<=|>=|[-+*<>()\[\],.=]))",
    re.ASCII,
)
_NUMBER: Final = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?", re.ASCII)
INSTEAD: Final = {
    "=": "'=='", "&": "'and'", "|": "'or'", "!": "'not'", "/": "a multiplication; there is no division",
    "True": "'true'", "False": "'false'", "None": "'null'", "is": "'=='", "AND": "'and'",
    "OR": "'or'", "NOT": "'not'", "IN": "'in'",
}  # fmt: skip
"""What to write for what other languages have."""


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the text; ``kind`` is number, text, word, sign or end."""

    kind: str
    text: str
    at: int


def tokens_of(source: str) -> list[Token]:
    """Return the pieces of a text, the last of kind "end".

    Raises:
        ExpressionError: something is no part of the language, or there is too much.
    """
    if len(source) > LONGEST:
        raise ExpressionError(
            f"it has {len(source)} characters: expected at most {LONGEST}; split it over branches",
            LONGEST,
        )
    tokens: list[Token] = []
    at, end = 0, len(source.rstrip())
    while at < end:
        found = _TOKEN.match(source, at)
        if found is None:
            at += len(source[at:]) - len(source[at:].lstrip())
            raise ExpressionError(_unreadable(source, at), at)
        kind = str(found.lastgroup)
        text, start = found[kind], found.start(kind)
        if kind == "number" and not _NUMBER.fullmatch(text):
            raise ExpressionError(
                f"the number {text[:20]}… is too long: expected at most 15 digits on either side"
                " of the point; shorten it",
                start,
            )
        if kind == "text" and not text.isprintable():
            raise ExpressionError("a text holds a control character; take it out", start)
        tokens.append(Token(kind, text, start))
        at = found.end()
    if len(tokens) > MOST_TOKENS:
        raise ExpressionError(
            f"it has {len(tokens)} words and signs: expected at most {MOST_TOKENS}; split it over"
            " branches",
            tokens[MOST_TOKENS].at,
        )
    return [*tokens, Token("end", "", end)]


def _unreadable(source: str, at: int) -> str:
    sign = source[at]
    if sign in "'\"":
        return f"a text that begins with {sign} does not end; close it"
    if sign.isdigit():
        return (
            "a number ends in letters: expected one such as 30 or 0.6; a duration is a text: '30d'"
        )
    instead = f"; write {INSTEAD[sign]}" if sign in INSTEAD else "; take it out"
    return f"{sign!r} is not part of the language{instead}"
