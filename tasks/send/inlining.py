"""Rules of `<style>` written into the elements of templates, once a version, when it is read.

A template is no page: it holds Jinja, which must be as it was afterwards. So the sources are never
parsed and written out again. Their elements are numbered, a page is put together from them (every
branch of an `if` once, the blocks of a child in the places of its base), the rules are applied to that
page, and each element's `style` is written back at its place in the source. An element whose class or
id is an expression is left to its rules, which then all stay in `<style>`. The number of lines before
every line stays, so that a fault is named where it is.

The same sources and the same release of css-inline give the same template; one without rules is not
changed at all.
"""

from __future__ import annotations

import html
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Final, TypeAlias

from tasks import stylesheet
from tasks.errors import Permanent

# Every piece of Jinja becomes one mark, by its number; strings in it may hold its own end.
_STRING = r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'"""
_JINJA: Final = re.compile(
    r"\{#.*?#\}"
    r"|\{%[-+]?\s*raw\s*[-+]?%\}.*?\{%[-+]?\s*endraw\s*[-+]?%\}"
    rf"|\{{\{{(?:{_STRING}|[^\"'])*?\}}\}}"
    rf"|\{{%(?:{_STRING}|[^\"'])*?%\}}",
    re.DOTALL,
)
_MARK: Final = re.compile("\ue000(\\d+)\ue001")
_MARKS: Final = re.compile("[\ue000\ue001]")
_STATEMENT: Final = re.compile(r"\{%[-+]?\s*(\w+)\s*(.*?)[-+]?%\}", re.DOTALL)
_TAG: Final = re.compile(
    r"<!--.*?-->"
    r"|(?P<style><style\b[^>]*>.*?</style\s*>)"
    r"|<(?P<raw>script|title|textarea)\b[^>]*>.*?</(?P=raw)\s*>"
    r"""|<(?P<name>[a-z][a-z0-9-]*)(?P<attributes>(?:"[^"]*"|'[^']*'|[^'">])*)>""",
    re.IGNORECASE | re.DOTALL,
)
_ATTRIBUTE: Final = re.compile(
    r"""(?P<name>[^\s"'<>/=]+)(?:\s*=\s*(?:"(?P<a>[^"]*)"|'(?P<b>[^']*)'|(?P<c>[^\s"'<>`]+)))?"""
)
_NUMBER: Final = "data-dripfleet"
_SAFE: Final = re.compile(r"\|\s*safe\b")

_Node: TypeAlias = "str | _Block | _Other"
_Filled: TypeAlias = "Mapping[str, list[list[_Node]]]"
"""What children put into blocks, the most derived first."""


@dataclass(slots=True)
class _Block:
    name: str
    nodes: list[_Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Other:
    """Another part: ``extends``, ``include``, ``import``; or ``super`` without one."""

    how: str
    paths: tuple[str, ...] = ()


def inlined(name: str, parts: Mapping[str, str]) -> dict[str, str]:
    """The parts of a mail with the rules of its pages in their elements.

    Args:
        name: of the template, for errors.
        parts: path → source; each of them is a template.

    Raises:
        Permanent: an element of a base would look different in two places that take it in.
    """
    pages = {path: source for path, source in parts.items() if path.endswith(".html")}
    if not any(stylesheet.STYLE.search(source) for source in pages.values()):
        return dict(parts)
    count = iter(range(1_000_000_000))
    read = {path: _Part(name, path, source, count) for path, source in sorted(pages.items())}
    styles: dict[int, set[str]] = defaultdict(set)
    for path in read:
        if not path.startswith("_base/"):
            reader = _Reader()
            try:
                reader.feed(stylesheet.inline(_flat(read, path)))
            except ValueError as fault:
                raise Permanent(
                    f"template {name}: the rules of {path} cannot be applied ({fault}); correct them"
                ) from None
            for number, style in reader.found:
                styles[number].add(style)
    loose = any(part.loose for part in read.values())
    return {**parts, **{path: part.written(styles, loose) for path, part in read.items()}}


class _Part:
    """One source: its marks, its elements by number, and what it is made of."""

    def __init__(self, name: str, path: str, source: str, count: Iterator[int]) -> None:
        if _MARKS.search(source):
            raise Permanent(
                f"template {name}: {path} holds a character U+E000 or U+E001, which no font shows;"
                " take it out"
            )
        self.where = f"template {name}: {path}"
        self._jinja: list[str] = []
        self._source = _JINJA.sub(self._mark, source)
        self._sheets: dict[int, tuple[list[stylesheet.Rule], list[stylesheet.Rule]]] = {}
        self._tags: dict[int, int] = {}
        self.loose = _SAFE.search(source) is not None
        page, at = [], 0
        for found in _TAG.finditer(self._source):
            page += [self._source[at : found.start()], self._of_page(found, count)]
            at = found.end()
        self.nodes = self._nodes("".join([*page, self._source[at:]]))

    def _mark(self, found: re.Match[str]) -> str:
        self._jinja.append(found[0])
        return f"\ue000{len(self._jinja) - 1}\ue001"

    def _of_page(self, found: re.Match[str], count: Iterator[int]) -> str:
        """An element as the page has it: numbered, and without a style of its own."""
        if found["style"]:
            opened = stylesheet.STYLE.fullmatch(found[0])
            assert opened is not None
            if opened[1].strip() not in ("", 'type="text/css"') or _MARK.search(opened[2]):
                return ""  # for one medium, not to be inlined, or not known before it is rendered
            self._sheets[found.start()] = stylesheet.parted(opened[2])
            return f"<style>{''.join(map(str, self._sheets[found.start()][0]))}</style>"
        if not found["name"]:
            return ""
        kept = ""
        for each in _ATTRIBUTE.finditer(found["attributes"]):
            name, value = each["name"].lower(), _value(each)
            if _MARK.search(name) or (name in ("class", "id") and _MARK.search(value)):
                self.loose = True
                return f"<{found['name']}>"
            if name != "style" and not _MARK.search(value):
                kept += f' {each["name"]}="{html.escape(html.unescape(value))}"'
        number = next(count)
        self._tags[found.start()] = number
        return f'<{found["name"]}{kept} {_NUMBER}="{number}">'

    def _nodes(self, page: str) -> list[_Node]:
        top: list[_Node] = []
        opened = [top]
        for n, piece in enumerate(_MARK.split(page)):
            if n % 2 == 0:
                opened[-1].append(piece)
                continue
            said = self._jinja[int(piece)]
            statement = _STATEMENT.fullmatch(said)
            if statement is None:
                if "super()" in said:
                    opened[-1].append(_Other("super"))
                continue
            word, rest = statement[1], statement[2]
            if word == "block":
                block = _Block(rest.split()[0])
                opened[-1].append(block)
                opened.append(block.nodes)
            elif word == "endblock":
                opened.pop()
            elif word in ("extends", "include", "import", "from"):
                how = "import" if word == "from" else word
                paths = re.findall(r"""["'](_base/[^"']+\.html)["']""", rest)
                opened[-1].append(_Other(how, tuple(paths)))
        return top

    def written(self, styles: Mapping[int, set[str]], loose: bool) -> str:
        """The source, its rules in its elements."""
        made, at = [], 0
        for found in _TAG.finditer(self._source):
            start = found.start()
            if start in self._sheets:
                said = self._sheet(found[0], *self._sheets[start], loose)
            elif (styled := styles.get(self._tags.get(start, -1), {""})) != {""}:
                said = self._styled(found, styled)
            else:
                continue
            made += [self._source[at:start], said]
            at = found.end()
        whole = "".join([*made, self._source[at:]])
        return _MARK.sub(lambda mark: self._jinja[int(mark[1])], whole)

    def _styled(self, found: re.Match[str], styles: set[str]) -> str:
        if len(styles) > 1:
            line = self._line(found.start())
            raise Permanent(
                f"{self.where} line {line}: <{found['name']}> would look different in two places that"
                f" take it in ({' / '.join(s or 'no style' for s in sorted(styles))[:160]}); give it a class of its own, or a"
                " style"
            )
        (style,) = styles
        for each in _ATTRIBUTE.finditer(found["attributes"]):
            if each["name"].lower() == "style":
                own = _value(each).strip().rstrip(";")
                set_here = {name for name, _ in stylesheet.declarations(own)}
                rest = [
                    f"{name}:{value}"
                    for name, value in stylesheet.declarations(style)
                    if name not in set_here or "!important" in value
                ]
                quote = "'" if each["b"] is not None else '"'
                value = ";".join([*(_quoted(said, quote) for said in rest), own])
                before = found["attributes"][: each.start()]
                after = found["attributes"][each.end() :]
                return f"<{found['name']}{before}style={quote}{value}{quote}{after}>"
        attributes = found["attributes"].rstrip()
        slash = attributes.endswith("/")
        attributes = attributes.removesuffix("/").rstrip()
        value = _quoted(";".join(f"{n}:{v}" for n, v in stylesheet.declarations(style)), '"')
        return f'<{found["name"]}{attributes} style="{value}"{" /" if slash else ""}>'

    def _sheet(
        self, source: str, plain: list[stylesheet.Rule], stay: list[stylesheet.Rule], loose: bool
    ) -> str:
        """What is left of a sheet, on as many lines as it had."""
        left = [str(rule) for rule in ([*plain, *stay] if loose else stay)]
        lines = source.count("\n")
        body = ("\n" if len(left) < lines else "").join(left)
        said = f"<style>{body}</style>" if left else ""
        missing = lines - said.count("\n")
        return said + (f"{{#{chr(10) * missing}#}}" if missing else "")

    def _line(self, at: int) -> int:
        before = _MARK.sub(lambda mark: self._jinja[int(mark[1])], self._source[:at])
        return before.count("\n") + 1


class _Reader(HTMLParser):
    """The numbers of elements that have a style, with it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get(_NUMBER) is not None:
            self.found.append((int(given[_NUMBER] or 0), given.get("style") or ""))


def _flat(parts: Mapping[str, _Part], root: str) -> str:
    """One page of everything that `root` can show, each branch once."""

    def blocks(nodes: list[_Node]) -> dict[str, list[_Node]]:
        found: dict[str, list[_Node]] = {}
        for node in nodes:
            if isinstance(node, _Block):
                found |= {node.name: node.nodes, **blocks(node.nodes)}
        return found

    def page(path: str, above: tuple[str, ...], filled: _Filled) -> str:
        if path in above or path not in parts:
            return ""
        nodes = parts[path].nodes
        base = next(
            (n for n in nodes if isinstance(n, _Other) and n.how == "extends" and n.paths), None
        )
        here = (*above, path)
        if base is None:
            return shown(nodes, here, filled, ())
        own = {name: [*filled.get(name, []), each] for name, each in blocks(nodes).items()}
        # What stands outside of the blocks is not shown, but its macros may be.
        aside: list[_Node] = [
            node for node in nodes if not isinstance(node, _Block) and node is not base
        ]
        below = page(base.paths[0], here, {**filled, **own})
        return below + shown(aside, here, filled, ())

    def shown(
        nodes: list[_Node],
        above: tuple[str, ...],
        filled: _Filled,
        behind: tuple[list[_Node], ...],
    ) -> str:
        made = ""
        for node in nodes:
            if isinstance(node, str):
                made += node
            elif isinstance(node, _Block):
                first, *rest = [*filled.get(node.name, []), node.nodes]
                made += shown(first, above, filled, tuple(rest))
            elif node.how == "super":
                made += shown(behind[0], above, filled, behind[1:]) if behind else ""
            else:
                made += "".join(page(path, above, {}) for path in node.paths)
        return made

    return page(root, (), {})


def _value(attribute: re.Match[str]) -> str:
    return next((v for v in (attribute["a"], attribute["b"], attribute["c"]) if v is not None), "")


def _quoted(value: str, quote: str) -> str:
    return value.replace("&", "&amp;").replace(quote, "&quot;" if quote == '"' else "&#39;")
