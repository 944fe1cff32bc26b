"""What is the same in every mail of a template, found and laid out when it is compiled.

Two things are: the text around its expressions, and whatever hangs on names with the same value in
every mail (`sender`). Inheritance and includes are resolved, what hangs on known names alone is
rendered at once and becomes text like the text around it (it is *folded*), and the whole lines of
such text are encoded once (`quoted.Fixed`). Conditions, loops and whatever keeps state stay Jinja's.

All of it happens between Jinja's parser and its compiler, so escaping and our budget are theirs.
Where a template does what cannot be resolved beforehand, it is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from jinja2 import Template, meta, nodes
from jinja2.runtime import Context

from tasks.send.laid_code import LaidCode
from tasks.send.quoted import Fixed
from tasks.send.sandbox import EXACT, TURN, Sandbox, budget, filled, plain_fields, spend

# What gives names a meaning, so that where it stands matters.
_NAMING = (
    nodes.Assign,
    nodes.AssignBlock,
    nodes.CallBlock,
    nodes.FromImport,
    nodes.Import,
    nodes.Macro,
)
_ELSEWHERE = (*_NAMING, nodes.Block, nodes.Extends, nodes.FilterBlock, nodes.Include, nodes.With)
_OF_A_PLACE = {"self", "super", "caller", "varargs", "kwargs"}


class FoldingSandbox(Sandbox):
    """The sandbox of one bundle and of values that are the same in every mail of it.

    Args:
        parts: sources by path.
        known: name → its value in every mail.
    """

    code_generator_class = LaidCode
    exact = EXACT

    def __init__(self, parts: Mapping[str, str], known: Mapping[str, object]) -> None:
        super().__init__(parts)
        self.fixed: list[Fixed] = []
        self._sources = parts
        self._evaluator = Sandbox(parts)
        trees = {path: self._evaluator.parse(source, path) for path, source in parts.items()}
        # A name that some part gives another meaning, however far away, is not known; and parts
        # that are imported see none of them.
        bound = {name for tree in trees.values() for name in _bound(tree)}
        self._known = {name: value for name, value in known.items() if name not in bound}
        self._apart = _on_their_own(trees)

    def formatted(self, context: Context, text: str, values: tuple[object, ...]) -> Any:
        """`text.format(*values)`; called by compiled code."""
        fields = plain_fields(text)
        if fields is None or not all(type(each) in EXACT for each in values):
            return self.call(context, self.getattr(text, "format"), *values)
        spend(TURN + 2 * len(text))
        return filled(fields, values)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if name is None or name in self._apart:
            return super()._parse(source, name, filename)
        tree = self._read(name)
        # A base keeps its blocks: a part that cannot be resolved still extends it.
        body = tree.body if name.startswith("_base/") else self._resolved(tree)
        tree.body = _merged(body)
        return tree

    def _read(self, path: str) -> nodes.Template:
        """A part's tree, folded, and with the parts that it includes in their places."""
        tree = super()._parse(self._sources[path], path, path)
        tree.body = self._folded(tree.body, path)
        return tree

    def _resolved(self, tree: nodes.Template) -> list[nodes.Node]:
        """The body without inheritance, where nothing hangs on its order; else as it is."""
        chain = [tree]
        while parent := _extended(chain[-1]):
            chain.append(self._read(parent))
        final: dict[str, nodes.Block] = {}
        for each in chain:
            if _names(each) & _OF_A_PLACE or _holds(each, _NAMING):
                return tree.body
            scopes = each.find_all((nodes.For, nodes.With, nodes.FilterBlock))
            if any(_holds(scope, (nodes.Block,)) for scope in scopes):
                return tree.body
            for block in each.find_all(nodes.Block):
                final.setdefault(block.name, block)
        if any(block.required for block in final.values()):
            return tree.body
        if not all(_only_blocks(each) for each in chain[:-1]):
            return tree.body
        return list(_without_blocks(chain[-1].body, final))

    def _folded(self, body: list[nodes.Node], path: str) -> list[nodes.Node]:
        made: list[nodes.Node] = []
        for node in body:
            if isinstance(node, nodes.Output):
                node.nodes = [self._expression(each, path) for each in node.nodes]
            elif isinstance(node, nodes.Block):
                node.body = self._folded(node.body, path)
            elif isinstance(node, nodes.If | nodes.For):
                text = self._rendered(node, path)
                if text is not None:
                    made.append(_text(text, node))
                    continue
                self._fold_within(node, path)
            elif isinstance(node, nodes.Include):
                made += self._included(node)
                continue
            made.append(node)
        return made

    def _fold_within(self, node: nodes.If | nodes.For, path: str) -> None:
        node.body = self._folded(node.body, path)
        node.else_ = self._folded(node.else_, path)
        for other in getattr(node, "elif_", ()):
            self._fold_within(other, path)

    def _included(self, node: nodes.Include) -> list[nodes.Node]:
        """What an included part yields, in its place; or the include, where that is not the same."""
        if not isinstance(node.template, nodes.Const) or not node.with_context:
            return [node]
        if node.template.value in self._apart:
            return [node]
        tree = self._read(node.template.value)
        if _holds(tree, _ELSEWHERE) or _names(tree) & (_OF_A_PLACE | {"loop"}):
            return [node]
        return tree.body

    def _expression(self, node: nodes.Expr, path: str) -> nodes.Expr:
        if isinstance(node, nodes.TemplateData):
            return node
        text = self._rendered(nodes.Output([node], lineno=node.lineno), path)
        return node if text is None else nodes.TemplateData(text, lineno=node.lineno)

    def _rendered(self, node: nodes.Node, path: str) -> str | None:
        """The text of a node that asks for nothing but known names; None for any other."""
        named = _names(node)
        if not named & self._known.keys() or named & _OF_A_PLACE or _holds(node, _ELSEWHERE):
            return None
        tree = nodes.Template([node], lineno=node.lineno)
        tree.set_environment(self._evaluator)
        if not meta.find_undeclared_variables(tree) <= self._known.keys():
            return None
        try:
            with budget():
                code = self._evaluator.compile(tree, path, path)
                names = self._evaluator.make_globals(None)
                template = Template.from_code(self._evaluator, code, names)
                context = template.new_context(dict(self._known))
                return "".join(template.root_render_func(context))
        except Exception:  # it is told at its place, when a mail comes to it
            return None


def _text(text: str, node: nodes.Node) -> nodes.Output:
    return nodes.Output([nodes.TemplateData(text, lineno=node.lineno)], lineno=node.lineno)


def _names(node: nodes.Node) -> set[str]:
    return {each.name for each in node.find_all(nodes.Name)}


def _holds(node: nodes.Node, kinds: tuple[type[nodes.Node], ...]) -> bool:
    return isinstance(node, kinds) or next(iter(node.find_all(kinds)), None) is not None


def _extended(tree: nodes.Template) -> str | None:
    for node in tree.body:
        if isinstance(node, nodes.Extends) and isinstance(node.template, nodes.Const):
            return str(node.template.value)
    return None


def _only_blocks(tree: nodes.Template) -> bool:
    """Whether a part says nothing but which part it extends, and blocks of it."""
    first, *others = tree.body
    return isinstance(first, nodes.Extends) and all(
        isinstance(node, nodes.Block)
        # Text between the blocks of such a part goes nowhere.
        or (
            isinstance(node, nodes.Output)
            and all(isinstance(each, nodes.TemplateData) for each in node.nodes)
        )
        for node in others
    )


def _without_blocks(
    body: list[nodes.Node], final: Mapping[str, nodes.Block]
) -> Iterator[nodes.Node]:
    for node in body:
        if isinstance(node, nodes.Block):
            yield from _without_blocks(final[node.name].body, final)
            continue
        if isinstance(node, nodes.If):
            _unblock(node, final)
        yield node


def _unblock(node: nodes.If, final: Mapping[str, nodes.Block]) -> None:
    node.body = list(_without_blocks(node.body, final))
    node.else_ = list(_without_blocks(node.else_, final))
    for other in node.elif_:
        _unblock(other, final)


def _merged(body: list[nodes.Node]) -> list[nodes.Node]:
    """Neighbors that only yield become one, so that text next to text is one piece."""
    made: list[nodes.Node] = []
    for node in body:
        if isinstance(node, nodes.If | nodes.For):
            node.body, node.else_ = _merged(node.body), _merged(node.else_)
        if isinstance(node, nodes.Output) and made and isinstance(made[-1], nodes.Output):
            both = [*made[-1].nodes, *node.nodes]
            made[-1] = nodes.Output(both, lineno=made[-1].lineno)
        else:
            made.append(node)
    return made


def _bound(tree: nodes.Template) -> set[str]:
    """Every name that a part gives a meaning of its own."""
    names = {each.name for each in tree.find_all(nodes.Name) if each.ctx != "load"}
    names |= {each.name for each in tree.find_all(nodes.Macro)}
    names |= {each.target for each in tree.find_all(nodes.Import)}
    for node in tree.find_all(nodes.FromImport):
        names |= {each if isinstance(each, str) else each[1] for each in node.names}
    return names


def _on_their_own(trees: Mapping[str, nodes.Template]) -> set[str]:
    """The parts that somewhere are imported or taken in without context, and what those take in."""
    found: set[str] = set()
    wanted: list[Any] = []
    for tree in trees.values():
        for node in tree.find_all((nodes.Import, nodes.FromImport)):
            wanted.append(cast(nodes.Import, node).template.as_const())
        for node in tree.find_all(nodes.Include):
            if not node.with_context:
                named = node.template.as_const()
                wanted += [named] if isinstance(named, str) else named
    while wanted:
        path = wanted.pop()
        if path not in found:
            found.add(path)
            wanted += meta.find_referenced_templates(trees[path])
    return found
