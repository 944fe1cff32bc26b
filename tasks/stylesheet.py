"""The CSS of a page: rules taken apart, and written into the elements that they are for. Pure.

Many mail programs read `style` attributes and no `<style>`, so what can be told of an element once and
for all belongs into its attribute (css-inline does that). What cannot stays a rule: conditions (`@media`,
`:hover`) and what depends on an element's neighbors. A rule that stays is made `!important`, since an
attribute goes before any other rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from css_inline import CSSInliner

DEEPEST: Final = 250
"""Elements within elements; css-inline takes its process down at some thousands."""
STYLE: Final = re.compile(r"<style\b([^>]*)>(.*?)</style\s*>", re.IGNORECASE | re.DOTALL)
_DARK: Final = re.compile(r"@media[^{]*prefers-color-scheme\s*:\s*dark", re.IGNORECASE)
_NESTING: Final = ("@media", "@supports", "@layer", "@container")
_VOID: Final = frozenset("area base br col embed hr img input link meta source track wbr".split())
_IMPLIED: Final = frozenset("p li dt dd option tr td th tbody thead tfoot".split())
_FORMATTING: Final = frozenset(
    "a b big code em font i nobr s small strike strong tt u".split()
)  # a wrong end of these opens them anew elsewhere
_TOKEN: Final = re.compile(
    r"""/\*.*?(?:\*/|$)|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|.""", re.DOTALL
)  # comments and strings are one token each


@dataclass(frozen=True, slots=True)
class Rule:
    """What stands before the braces, and within; None within: a statement such as ``@import``."""

    head: str
    body: str | None

    def __str__(self) -> str:
        return f"{self.head};" if self.body is None else f"{self.head}{{{self.body}}}"


def rules(css: str) -> list[Rule]:
    """The rules of a sheet in their order, without comments; a sheet that breaks off ends there."""
    found: list[Rule] = []
    head, body, depth = "", "", 0
    for token in _TOKEN.findall(css):
        if token.startswith("/*"):
            continue
        depth += (token == "{") - (token == "}")
        if depth < 0:
            depth, head = 0, ""
        elif depth == 0 and token == "}":
            found.append(Rule(_blanks(head), _blanks(body)))
            head = body = ""
        elif depth == 0 and token == ";":
            found.append(Rule(_blanks(head), None))
            head = ""
        elif depth == 0:
            head += token
        elif not (depth == 1 and token == "{" and not body):
            body += token
    return found


def parted(css: str) -> tuple[list[Rule], list[Rule]]:
    """The rules that can be told of elements once and for all, and those that stay, as they stay."""
    plain: list[Rule] = []
    stay: list[Rule] = []
    for rule in rules(css):
        if rule.head.startswith("@") or rule.body is None:
            stay.append(_important(rule))
            continue
        heads = _split(rule.head, ",")
        fixed = [each for each in heads if not _conditional(each)]
        if fixed:
            plain.append(Rule(",".join(fixed), rule.body))
        if loose := [each for each in heads if _conditional(each)]:
            stay.append(_important(Rule(",".join(loose), rule.body)))
    return plain, stay


def declarations(body: str) -> Iterator[tuple[str, str]]:
    """Each property and its value, in order."""
    for each in _split(body, ";"):
        name, colon, value = each.partition(":")
        if colon and name.strip() and value.strip():
            yield name.strip().lower(), value.strip()


class TooDeep(ValueError):
    """A page is nested so deeply that its rules are not applied."""


def inline(page: str) -> str:
    """A page with its rules in its elements; nothing is fetched.

    Raises:
        TooDeep: elements stand within more than `DEEPEST` others, or are not closed.
        ValueError: css-inline cannot read it.
    """
    if depth(page) > DEEPEST:
        raise TooDeep(f"its elements stand within over {DEEPEST} others: close what is open")
    return _inliner().inline(page)


def as_read(page: str) -> str:
    """A page as a mail program shows it that reads `<style>`: every fixed rule in its element.

    One that cannot be read is given back as it is.
    """
    try:
        return inline(page) if STYLE.search(page) else page
    except ValueError:
        return page


def depth(page: str) -> int:
    """How deep its elements stand within each other, at least as deep as a parser of HTML makes it."""
    counted = _Depth()
    counted.feed(page)
    return counted.most


def in_the_dark(page: str) -> str | None:
    """The same where the reader asked for dark colors; None: the page has no rules for that."""
    sheets = "\n".join(css for _, css in STYLE.findall(page))
    dark = [rule for rule in rules(sheets) if _DARK.match(rule.head) and rule.body]
    if not dark:
        return None
    said = "".join(str(_important(each)) for rule in dark for each in rules(rule.body or ""))
    last = list(STYLE.finditer(page))[-1].end()
    try:
        return inline(f"{page[:last]}<style>{said}</style>{page[last:]}")
    except ValueError:
        return None


class _Depth(HTMLParser):
    """Counts an element as open until its own end stands where it may.

    What is left open, and an end in the wrong place, count: a parser mends them in its own ways.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _VOID:
            return
        if tag in _IMPLIED and self._open and self._open[-1] == tag:
            return
        self._open.append(tag)
        self.most = max(self.most, len(self._open))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        at = len(self._open)
        while tag not in _FORMATTING and at and self._open[at - 1] in _IMPLIED - {tag}:
            at -= 1
        if at and self._open[at - 1] == tag:
            del self._open[at - 1 :]


@cache
def _inliner() -> CSSInliner:
    from css_inline import CSSInliner

    return CSSInliner(load_remote_stylesheets=False)


def _important(rule: Rule) -> Rule:
    if rule.body is None:
        return rule
    if rule.head.lower().startswith(_NESTING):
        return Rule(rule.head, "".join(str(_important(each)) for each in rules(rule.body)))
    if rule.head.startswith("@"):
        return rule
    said = (
        f"{name}:{value if value.lower().endswith('!important') else f'{value} !important'}"
        for name, value in declarations(rule.body)
    )
    return Rule(rule.head, ";".join(said))


def _conditional(selector: str) -> bool:
    """Whether what it selects depends on more than the element and those that it stands in."""
    bare = re.sub(r"""\[(?:"[^"]*"|'[^']*'|[^\]])*\]""", "", selector)
    return any(sign in bare for sign in ":+~")


def _split(text: str, mark: str) -> list[str]:
    """The parts between marks that stand in no string and no parentheses."""
    parts, depth = [""], 0
    for token in _TOKEN.findall(text):
        depth += (token in "([") - (token in ")]")
        if token == mark and depth == 0:
            parts.append("")
        elif not token.startswith("/*"):
            parts[-1] += token
    return [part.strip() for part in parts if part.strip()]


def _blanks(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
