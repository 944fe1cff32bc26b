"""A mail's templates laid out once; each mail of them costs what differs in it.

A `Skeleton` stands for a bundle and a sender's words. What it composes equals, octet for octet,
what `render` and `content.compose` make of the same variables: a message frozen by one is
rendered again by the other, in a child or after an upgrade, with the same hash.

Where anything goes wrong the plain render takes over, so that a fault is told the same way, by file
and line, and its limits are the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from jinja2 import Template

from tasks.send.content import Content, Facts, Sender, assemble, boundary_of, compose
from tasks.send.fold import FoldingSandbox
from tasks.send.quoted import encoded_pieces
from tasks.send.render import LARGEST_PART, Bundle, compiled, one_line
from tasks.send.sandbox import Refused, budget


class Skeleton:
    """The templates of a bundle, with all that is the same in every mail laid out.

    Args:
        bundle: the sources.
        sender: what templates see as `sender`.

    Raises:
        Permanent: a part is no template.
    """

    def __init__(self, bundle: Bundle, sender: Mapping[str, object]) -> None:
        self._plain = compiled(bundle)
        self._at = self._plain.at
        sandbox = FoldingSandbox(bundle.parts, {"sender": dict(sender)})
        self._sandbox = sandbox
        with budget():  # constants are folded while compiling
            self._parts = {at: self._in(bundle, at) for at in self._plain.places}

    def _in(self, bundle: Bundle, at: str) -> tuple[Template, Template, Template | None]:
        """Subject, text and html of one language."""
        page = f"{at}body.html"
        return (
            self._sandbox.get_template(f"{at}subject.txt"),
            self._sandbox.get_template(f"{at}body.txt"),
            self._sandbox.get_template(page) if page in bundle.parts else None,
        )

    def compose(
        self, variables: Mapping[str, object], *, message: Facts, sender: Sender
    ) -> Content:
        """One mail; `variables` as for `CompiledMail.render`, their `sender` that of the skeleton.

        Raises:
            Permanent: as `CompiledMail.render` and `content.compose` do.
        """
        try:
            known = {**self._sandbox.globals, "words": {}, "event": {}, **variables}
            head, plain, page = self._parts[self._at(variables)]
            subject = one_line("".join(self._pieces(head, known)))
            text = self._pieces(plain, known)
            html = None if page is None else self._pieces(page, known)
        except Exception:
            return compose(self._plain.render(variables), message=message, sender=sender)
        boundary = boundary_of(message.boundary_key)
        return assemble(
            subject,
            encoded_pieces(text, boundary),
            None if html is None else encoded_pieces(html, boundary),
            message=message,
            sender=sender,
        )

    def _pieces(self, template: Template, known: dict[str, object]) -> list[str]:
        context = self._sandbox.context_class(self._sandbox, known, template.name, template.blocks)
        with budget():
            # What repeats here is paid for by the turn, and text of the template is not copied.
            pieces = list(template.root_render_func(context))
        if sum(map(len, pieces)) > LARGEST_PART:
            raise Refused("its output is too large")
        return pieces


@lru_cache(maxsize=256)
def skeleton(bundle: Bundle, sender: tuple[tuple[str, str], ...]) -> Skeleton:
    """`Skeleton`, once a hash, sender and process; `sender` as the items of what templates see."""
    return Skeleton(bundle, dict(sender))
