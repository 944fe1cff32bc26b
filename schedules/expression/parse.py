"""How the text of an expression becomes a tree.

or:         and ("or" and)*
and:        not ("and" not)*
not:        "not" not | comparison
comparison: sum [("==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "not" "in") sum]
sum:        product (("+" | "-") product)*
product:    minus ("*" minus)*
minus:      "-" minus | value
value:      number | text | true | false | null | list | "(" or ")" | name | call
name:       ("sub" | "event") ("." word | "[" text "]")
call:       word "(" argument ("," word "=" literal)* ")"
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from schedules.expression.calls import CALLS, call
from schedules.expression.nodes import (
    Arithmetic,
    Attribute,
    Compare,
    ExpressionError,
    Items,
    Literal,
    Logic,
    Minus,
    Node,
    Not,
    Property,
    Scalar,
)
from schedules.expression.tokens import INSTEAD, Token, tokens_of

DEEPEST: Final = 40
"""Of what stands inside something else: whoever walks the tree does so by recursion."""

_WORDS: Final = {"true": True, "false": False, "null": None}
_RESERVED: Final = frozenset({"and", "or", "not", "in", *_WORDS})
_COMPARE: Final = frozenset({"==", "!=", "<", "<=", ">", ">="})


def parse(source: str) -> Node:
    """Read the tree of an expression.

    Raises:
        ExpressionError: with the place, at the first thing that cannot be read.
    """
    parser = _Parser(tokens_of(source))
    root = parser.either()
    parser.end()
    return root


class _Parser:
    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._next = 0
        self._depth = 0

    @property
    def here(self) -> Token:
        return self._tokens[self._next]

    def take(self, *texts: str) -> Token | None:
        """The next token if it is one of these signs or words."""
        token = self.here
        if token.kind in ("sign", "word") and token.text in texts:
            self._next += 1
            return token
        return None

    def need(self, text: str, inside: str) -> Token:
        token = self.take(text)
        if token is None:
            raise self._wrong(f"expected {text!r} {inside}")
        return token

    def end(self) -> None:
        if self.here.kind != "end":
            chain = self.here.text in _COMPARE or self.here.text == "in"
            raise self._wrong(
                "comparisons do not chain: expected 'and' between two of them"
                if chain
                else "expected 'and', 'or' or the end"
            )

    def either(self) -> Node:
        self._depth += 1
        if self._depth > DEEPEST:
            raise self._wrong(f"it is nested more than {DEEPEST} deep")
        node = self._logic("or", self.both)
        self._depth -= 1
        return node

    def both(self) -> Node:
        return self._logic("and", self.negated)

    def negated(self) -> Node:
        token = self.take("not")
        if token is None:
            return self.comparison()
        return Not(self._deeper(self.negated), token.at)

    def comparison(self) -> Node:
        left = self.sum()
        token = self.here
        if self.take(*_COMPARE, "in"):
            op = token.text
        elif token.text == "not" and self._tokens[self._next + 1].text == "in":
            self._next += 2
            op = "not in"
        else:
            return left
        return Compare(op, left, self.sum(), token.at)  # type: ignore[arg-type]

    def sum(self) -> Node:
        return self._arithmetic(("+", "-"), self.product)

    def product(self) -> Node:
        return self._arithmetic(("*",), self.minus)

    def minus(self) -> Node:
        token = self.take("-")
        if token is None:
            return self.value()
        inner = self._deeper(self.minus)
        if isinstance(inner, Literal) and (value := _negative(inner.value)) is not None:
            return Literal(value, token.at)
        return Minus(inner, token.at)

    def value(self) -> Node:
        token = self.here
        if token.kind in ("number", "text") or token.text in _WORDS:
            return Literal(self._scalar(), token.at)
        if self.take("("):
            node = self.either()
            self.need(")", "to close the parenthesis")
            return node
        if self.take("["):
            return self._list(token.at)
        if token.kind != "word" or token.text in _RESERVED or token.text in INSTEAD:
            raise self._wrong("expected a value, such as sub.country, 'DE', 0.6 or a call")
        self._next += 1
        if token.text in ("sub", "event"):
            return self._name(token)
        if self.here.text != "(":
            near = difflib.get_close_matches(token.text, ("sub", "event"), n=1)
            meant = f"did you mean {near[0]!r}?" if near and self.here.text == "." else ""
            raise ExpressionError(
                f"{token.text!r} is no name: expected sub.<attribute>, or a text in quotes such as"
                f" '{token.text}'; {meant or 'write one of them'}",
                token.at,
            )
        return self._call(token)

    def _scalar(self) -> Scalar:
        token = self.here
        self._next += 1
        if token.kind == "text":
            return token.text[1:-1]
        if token.kind == "number":
            return Decimal(token.text) if "." in token.text else int(token.text)
        return _WORDS[token.text]

    def _list(self, at: int) -> Node:
        values: list[Scalar] = []
        while not self.take("]"):
            if values:
                self.need(",", "or ']' in the list")
            place = self.here
            sign = self.take("-")
            token = self.here
            if token.kind not in ("number", "text") and token.text not in ("true", "false"):
                raise self._wrong("expected a number, a text, true or false in the list")
            value = self._scalar()
            if sign is not None:
                value = _negative(value)
                if value is None:
                    raise ExpressionError("only a number can be negative; correct it", place.at)
            values.append(value)
        if not values:
            raise ExpressionError("the list is empty: expected at least one value; add it", at)
        return Items(tuple(values), at)

    def _name(self, scope: Token) -> Node:
        kind = Attribute if scope.text == "sub" else Property
        if self.take("["):
            token = self.here
            if token.kind != "text" or len(token.text) < 3:
                raise self._wrong("expected a name in quotes")
            self._next += 1
            self.need("]", f"after the name in {scope.text}[…]")
            return kind(token.text[1:-1], scope.at)
        self.need(".", f"and a name after {scope.text!r}")
        token = self.here
        if token.kind != "word":
            raise self._wrong(f"expected a name after '{scope.text}.'")
        self._next += 1
        if self.here.text in (".", "["):
            raise self._wrong(f"{scope.text}.{token.text} has no parts: expected the name alone")
        return kind(token.text, scope.at)

    def _call(self, name: Token) -> Node:
        self.need("(", f"after {name.text!r}")
        argument: Node | None = None
        if name.text in CALLS and self.here.text != ")":
            argument = self.either()
        options: dict[str, Literal] = {}
        while name.text in CALLS and self.take(","):
            token = self.here
            if token.kind != "word" or self._tokens[self._next + 1].text != "=":
                raise self._wrong(f"expected an option of {name.text}() such as within='90d'")
            self._next += 2
            value = self.here
            if value.kind not in ("number", "text") and value.text not in _WORDS:
                raise self._wrong(f"expected a value for {token.text!r} of {name.text}()")
            if token.text in options:
                raise ExpressionError(f"{token.text!r} stands twice; remove one", token.at)
            options[token.text] = Literal(self._scalar(), token.at)
        node = call(name.text, argument, options, name.at)
        self.need(")", f"to close {name.text}()")
        return node

    def _logic(self, op: Any, part: Callable[[], Node]) -> Node:
        parts, at = [part()], self.here.at
        while self.take(op):
            parts.append(part())
        return parts[0] if len(parts) == 1 else Logic(op, tuple(parts), at)

    def _arithmetic(self, ops: tuple[str, ...], part: Callable[[], Node]) -> Node:
        node = part()
        while token := self.take(*ops):
            node = Arithmetic(token.text, node, part(), token.at)  # type: ignore[arg-type]
        return node

    def _deeper(self, part: Callable[[], Node]) -> Node:
        self._depth += 1
        if self._depth > DEEPEST:
            raise self._wrong(f"it is nested more than {DEEPEST} deep")
        node = part()
        self._depth -= 1
        return node

    def _wrong(self, expected: str) -> ExpressionError:
        token = self.here
        if token.kind == "end":
            return ExpressionError(f"it ends too early: {expected}; complete it", token.at)
        move = f"; write {INSTEAD[token.text]}" if token.text in INSTEAD else "; correct it"
        return ExpressionError(f"found {token.text[:40]!r}: {expected}{move}", token.at)


def _negative(value: Scalar) -> Scalar:
    """Return minus a number, exact; None for what is none."""
    if isinstance(value, Decimal):
        return value.copy_negate()
    return -value if isinstance(value, int) and not isinstance(value, bool) else None
