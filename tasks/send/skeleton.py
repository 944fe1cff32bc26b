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
from tasks.send.render import (
    LARGEST_PART,
    NOT_EVERYWHERE,
    Bundle,
    compiled,
    laid_out,
    one_line,
)
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
        self._files = {at: laid_out(bundle, at) for at in self._plain.places}
        self._templates: dict[str, Template] = {}
        self._sandbox: FoldingSandbox | None = None
        try:
            sandbox = FoldingSandbox(bundle.parts, {"sender": dict(sender)})
            # All parts, here and now: nothing is compiled later, by several threads at once.
            for path in bundle.parts:
                with budget():  # constants are folded while compiling
                    self._templates[path] = sandbox.get_template(path)
        except Exception:
            # What can be rendered whole is sent, if it cannot be laid out.
            return
        self._sandbox = sandbox

    def compose(
        self, variables: Mapping[str, object], *, message: Facts, sender: Sender
    ) -> Content:
        """One mail; `variables` as for `CompiledMail.render`, their `sender` that of the skeleton.

        Raises:
            Permanent: as `CompiledMail.render` and `content.compose` do.
        """
        if self._sandbox is None:
            return self._whole(variables, message, sender)
        try:
            known = {**self._sandbox.globals, **NOT_EVERYWHERE, **variables}
            at = self._at(variables)
            page = f"{at}body.html"
            subject = one_line("".join(self._pieces(f"{at}subject.txt", known)))
            text = self._pieces(f"{at}body.txt", known)
            html = self._pieces(page, known) if page in self._templates else None
        except Exception:
            return self._whole(variables, message, sender)
        boundary = boundary_of(message.boundary_key)
        return assemble(
            subject,
            encoded_pieces(text, boundary),
            None if html is None else encoded_pieces(html, boundary),
            message=message,
            sender=sender,
            files=self._files[at],
        )

    def _whole(self, variables: Mapping[str, object], message: Facts, sender: Sender) -> Content:
        rendered = self._plain.render(variables)
        files = self._files[self._at(variables)]
        return compose(rendered, message=message, sender=sender, files=files)

    def _pieces(self, path: str, known: dict[str, object]) -> list[str]:
        template = self._templates[path]
        environment = template.environment
        context = environment.context_class(environment, known, path, template.blocks)
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
