"""What a YAML file says and where: typed reads that collect findings instead of stopping.

The text is read as YAML 1.2 and only composed, never constructed: ``on`` and ``NO`` stay text,
``10:30`` is no number, a tag calls nothing, an alias expands nothing, and every key and value keeps
its line and column.
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from schedules.findings import DefinitionError, Finding, Located, Path

T = TypeVar("T")

SLUG: Final = "[a-z0-9][a-z0-9_-]{0,62}"
"""Pattern of keys, ids, topics and reasons."""

_TAG: Final = "tag:yaml.org,2002:"
_OTHER_VERSION: Final = re.compile(r"^%YAML\s+(?!1\.2\b).*$", re.MULTILINE)


class Shape(Protocol):
    """Who wants to know what a reader looks for: `schedules.schema`."""

    def table(self, path: Path, keys: tuple[str, ...]) -> None:
        """The mapping at ``path`` takes these keys and no others."""

    def key(self, path: Path, key: str, takes: Mapping[str, Any], required: bool) -> None:
        """A key of the mapping at ``path`` takes what a piece of JSON Schema says."""


@dataclass(slots=True)
class Report:
    """A file while it is read: the places seen so far and what was found; who listens, if anybody."""

    located: Located
    findings: list[Finding] = field(default_factory=list)
    shape: Shape | None = None

    def add(self, node: Any, message: str) -> None:
        """Record a finding where ``node`` starts."""
        self.findings.append(Finding(self.located.file, *_place(node), message))

    def add_at(self, path: Path, message: str) -> None:
        """Record a finding where the value of ``path`` stands."""
        self.findings.append(self.located.finding(path, message))


class Table:
    """One mapping of the file, read key by key.

    Every read returns None where the key is missing or its value is wrong; what was wrong is in the
    report then, at the value, or at the mapping for a required key that is missing.

    Args:
        report: where places and findings go.
        path: of this mapping, from the root.
        name: what a sentence calls it, such as "step 'hello'".
        node: as composed.
    """

    def __init__(self, report: Report, path: Path, name: str, node: Any) -> None:
        self.report, self.path, self.name, self.node = report, path, name, node
        self.keys: dict[str, Any] = {}
        self.values: dict[str, Any] = {}
        report.located.places[path] = _place(node)
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                report.add(key, f"a key of {name} is {_found(key)}: expected a word; write one")
            elif key.value in self.keys:
                line = _place(self.keys[key.value])[0]
                report.add(
                    key,
                    f"key {key.value!r} stands twice in {name}: expected it once; remove this one"
                    f" or the one on line {line}",
                )
            else:
                self.keys[key.value], self.values[key.value] = key, value
                report.located.places[(*path, key.value)] = _place(value)

    def __contains__(self, key: str) -> bool:
        return key in self.keys

    def only(self, known: Iterable[str], later: Iterable[str] = ()) -> None:
        """Report every key that is neither known nor, with another sentence, planned."""
        known, later = tuple(known), tuple(later)
        if self.report.shape is not None:
            self.report.shape.table(self.path, known)
        for key, node in self.keys.items():
            if key in later:
                self.report.add(node, comes_later(f"key {key!r} of {self.name}"))
            elif key not in known:
                move = suggest(key, (*known, *later)) or "remove it"
                self.report.add(
                    node,
                    f"unknown key {key!r} in {self.name}: expected one of {', '.join(known)}; {move}",
                )

    def missing(self, key: str, expected: str) -> None:
        """Report that ``key`` has to be there."""
        self.report.add(self.node, f"{self.name} has no {key!r}: expected {expected}; add it")

    def text(
        self, key: str, expected: str, read: Callable[[str], T], *, required: bool = False
    ) -> T | None:
        """Read text; ``read`` turns it into the value or raises ValueError, bare or with a whole sentence."""
        self._takes(key, required, type="string", description=expected)
        return self._scalar(key, "str", expected, read, required)

    def slug(
        self, key: str, *, required: bool = False, reserved: tuple[str, ...] = ()
    ) -> str | None:
        """Read a short name; a word of ``reserved`` is refused, since it means something else."""
        match = matching(SLUG)

        def read(text: str) -> str:
            if text in reserved:
                raise ValueError(
                    f"{text!r} is a word of the schema: expected a name; choose another"
                )
            return match(text)

        expected = "a short name of lower-case letters, digits, '-' and '_'"
        self._takes(key, required, type="string", pattern=f"^{SLUG}$", description=expected)
        return self._scalar(key, "str", expected, read, required)

    def whole(self, key: str, low: int, high: int) -> int | None:
        """Read a whole number, both bounds included."""

        def read(text: str) -> int:
            if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not low <= int(text) <= high:
                raise ValueError
            return int(text)

        self._takes(key, False, type="integer", minimum=low, maximum=high)
        return self._scalar(key, "int", f"a whole number from {low} to {high}", read, False)

    def flag(self, key: str) -> bool | None:
        """Read ``true`` or ``false``."""
        self._takes(key, False, type="boolean")
        return self._scalar(
            key, "bool", "true or false", lambda text: text.lower() == "true", False
        )

    def choice(
        self, key: str, known: Mapping[str, T], later: Iterable[str] = (), *, required: bool = False
    ) -> T | None:
        """Read one word of ``known``; a word of ``later`` is refused as not built yet."""
        node = self.values.get(key)
        self._takes(key, required, enum=list(known))
        if isinstance(node, ScalarNode) and node.value in later:
            self.report.add(node, comes_later(f"{key} {node.value!r}"))
            return None

        def read(text: str) -> T:
            if text in known:
                return known[text]
            move = suggest(text, known)
            if move is None:
                raise ValueError
            raise ValueError(
                f"{text[:40]!r} is none of its words: expected {' or '.join(known)}; {move}"
            )

        return self._scalar(key, "str", " or ".join(known), read, required)

    def plain(self, key: str) -> str | int | float | bool | None:
        """Read a value of any kind but a list or mapping; None is null, or wrong.

        Raises:
            KeyError: the key is not there.
        """
        node = self.values[key]
        self._takes(key, False, type=["string", "number", "boolean", "null"])
        kind = str(node.tag).removeprefix(_TAG) if isinstance(node, ScalarNode) else ""
        if kind == "str" and len(node.value) <= 1000 and node.value.isprintable():
            return str(node.value)
        if kind == "bool":
            return bool(node.value.lower() == "true")
        if kind == "int" and re.fullmatch(r"[-+]?[0-9]{1,15}", node.value, re.ASCII):
            return int(node.value)
        if kind == "float" and re.fullmatch(r"[-+]?[0-9]{1,15}\.[0-9]{1,15}", node.value, re.ASCII):
            return float(node.value)
        if kind != "null":
            self._wrong(
                key, node, "one line of text, a number such as 3 or 0.5, true, false or null"
            )
        return None

    def table(self, key: str, *, required: bool = False) -> Table | None:
        """Read a mapping."""
        node = self.values.get(key)
        self._takes(key, required, type="object")
        if isinstance(node, MappingNode):
            name = f"{key!r} of {self.name}" if self.path else repr(key)
            return Table(self.report, (*self.path, key), name, node)
        if node is not None:
            self._wrong(key, node, "a mapping of keys and values")
        elif required:
            self.missing(key, "a mapping of keys and values")
        return None

    def rows(self, key: str, example: str = "{id: …}") -> list[tuple[Path, Any]]:
        """Read a required list of at least one mapping, as paths and nodes; an entry is as ``example``."""
        node = self.values.get(key)
        self._takes(key, node is None, type="array")
        if node is None:
            self.missing(key, "a list of at least one")
            return []
        if not isinstance(node, SequenceNode) or not node.value:
            self._wrong(key, node, "a list of at least one")
            return []
        rows = []
        for index, item in enumerate(node.value):
            if isinstance(item, MappingNode):
                rows.append(((*self.path, key, index), item))
            else:
                self.report.add(
                    item,
                    f"entry {index + 1} of {key!r} is {_found(item)}: expected a mapping of keys"
                    f" and values; write it as '- {example}'",
                )
        return rows

    def _takes(self, key: str, required: bool, **takes: Any) -> None:
        if self.report.shape is not None:
            self.report.shape.key(self.path, key, takes, required)

    def _scalar(
        self, key: str, tag: str, expected: str, read: Callable[[str], T], required: bool
    ) -> T | None:
        node = self.values.get(key)
        if node is None:
            if required:
                self.missing(key, expected)
            return None
        if isinstance(node, ScalarNode) and node.tag == _TAG + tag:
            try:
                return read(node.value)
            except ValueError as error:
                if str(error):
                    self.report.add(node, f"{key!r} of {self.name}: {error}")
                    return None
        quote = tag == "str" and isinstance(node, ScalarNode) and node.tag != _TAG + "str"
        self._wrong(key, node, expected, quote=quote)
        return None

    def _wrong(self, key: str, node: Any, expected: str, *, quote: bool = False) -> None:
        move = "put text in quotes" if quote else "correct it"
        self.report.add(
            node, f"{key!r} of {self.name} is {_found(node)}: expected {expected}; {move}"
        )


def compose(text: str, file: str) -> Any:
    """Return the root node of one YAML 1.2 document.

    Raises:
        DefinitionError: not YAML, another YAML version, no document, or several.
    """

    def refuse(line: int, column: int, problem: str) -> DefinitionError:
        message = f"not readable as YAML 1.2: {problem}; correct it and try again"
        return DefinitionError([Finding(file, line, column, message)])

    other = _OTHER_VERSION.search(text)
    if other:
        line = text.count("\n", 0, other.start()) + 1
        raise refuse(line, 1, f"{other[0].strip()!r} asks for another version")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a reused anchor is legal in 1.2
            root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise refuse(line, column, problem) from error
    except YAMLError as error:
        position = getattr(error, "position", 0)
        line = text.count("\n", 0, position) + 1
        column = position - (text.rfind("\n", 0, position) + 1) + 1
        raise refuse(line, column, "a control character is not allowed") from error
    except RecursionError as error:
        raise refuse(1, 1, "it is nested too deeply") from error
    if root is None:
        raise refuse(1, 1, "the file is empty")
    return root


def comes_later(thing: str) -> str:
    """Return the sentence for what the schema names and this release does not build yet."""
    return (
        f"{thing} comes later: it is part of the schema, but this release expects a file without"
        " it; take it out to publish now"
    )


def matching(pattern: str) -> Callable[[str], str]:
    """Return a reader for `Table.text` that takes what ``pattern`` matches whole."""

    def read(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError
        return text

    return read


def suggest(word: str, known: Iterable[str]) -> str | None:
    """Return "did you mean …?" for the nearest of ``known``, or None where none is near."""
    spelled = {name.lower(): name for name in known}
    word = word.lower()
    near = difflib.get_close_matches(word, spelled)
    # Of those that are as near, the one with the same letters: two of them changed places.
    near.sort(key=lambda name: sorted(name) != sorted(word))
    return f"did you mean {spelled[near[0]]!r}?" if near else None


def _place(node: Any) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _found(node: Any) -> str:
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list" if node.value else "an empty list"
    if node.tag == _TAG + "null":
        return "empty"
    shown = node.value if len(node.value) <= 40 else node.value[:39] + "…"
    kinds = {"int": "the number", "float": "the number", "bool": "the truth value"}
    kind = kinds.get(str(node.tag).removeprefix(_TAG))
    return f"{kind} {shown}" if kind else repr(shown)
