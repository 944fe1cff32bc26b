"""The Python that a laid-out template compiles to: the usual value takes the short way.

Text around expressions is yielded as pieces that were encoded before (`quoted.Fixed`). Whatever is
not the usual case, plain text and numbers in plain objects, goes the sandbox's own way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from jinja2 import nodes
from jinja2.compiler import Frame

from tasks.send.quoted import Fixed
from tasks.send.sandbox import _Code, plain_fields


class LaidCode(_Code):
    """What `FoldingSandbox` compiles to."""

    def visit_Getattr(self, node: nodes.Getattr, frame: Frame) -> None:
        """`a.b`: the key of an object in one look."""
        name = self.temporary_identifier()
        self.write(f"({name}[{node.attr!r}] if type({name} := ")
        self.visit(node.node, frame)
        self.write(f") is dict and {node.attr!r} in {name}")
        self.write(f" else environment.getattr({name}, {node.attr!r}))")

    def visit_Filter(self, node: nodes.Filter, frame: Frame) -> None:
        """`default`: a text or number that needs none goes by it."""
        if node.name not in ("default", "d") or node.node is None:
            super().visit_Filter(node, frame)
            return
        name = self.temporary_identifier()
        self.write(f"({name} if type({name} := ")
        self.visit(node.node, frame)
        self.write(f") in environment.exact and {name} else {self.filters[node.name]}({name}")
        self.signature(node, frame)
        self.write("))")

    def visit_Call(self, node: nodes.Call, frame: Frame, forward_caller: bool = False) -> None:
        """`'…{}…'.format(a)`: by Python itself, where nothing can be reached through it."""
        text = _formatted(node)
        if text is None or forward_caller:
            super().visit_Call(node, frame, forward_caller=forward_caller)
            return
        self.write(f"environment.formatted(context, {text!r}, (")
        for each in node.args:
            self.visit(each, frame)
            self.write(", ")
        self.write("))")

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        text = "".join(group)
        sandbox = cast(Any, self.environment)
        piece = Fixed(text)
        if not piece.worthwhile:
            return repr(text)
        sandbox.fixed.append(piece)
        return f"environment.fixed[{len(sandbox.fixed) - 1}]"


def _formatted(node: nodes.Call) -> str | None:
    """The text of `'…{}…'.format(a, b)` with plain fields alone; None for any other call."""
    said = node.node
    if not isinstance(said, nodes.Getattr) or said.attr != "format":
        return None
    if node.kwargs or node.dyn_args or node.dyn_kwargs or not isinstance(said.node, nodes.Const):
        return None
    text = said.node.value
    return text if type(text) is str and plain_fields(text) is not None else None
