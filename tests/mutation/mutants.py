"""What is changed: a guard is taken out of a statement, a judgement of Python is turned round.

No mutation tester sees into SQL that stands in a Python string, and there stand the guards.
"""

from __future__ import annotations

import ast
import copy
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_SQL = re.compile(r"\b(SELECT|WHERE|AND|EXISTS)\b")
_WORD = re.compile(r"--[^\n]*|'(?:[^']|'')*'|[A-Za-z_]+|[()]|\S")
# What ends a condition, at its own depth of parentheses and of CASE.
_ENDS = frozenset(
    "AND OR FROM WHERE GROUP HAVING ORDER LIMIT RETURNING UNION FOR WINDOW THEN WHEN ELSE END AS SET"
    " LEFT JOIN ON".split()
)
_BEGIN = frozenset({"AND", "OR", "WHERE"})
_NAMED = re.compile(r"^([A-Z_]+)(?:: .*)? = |^def (\w+)", re.MULTILINE)
_UNSAID = re.compile(
    r"syntax error at|errors\.(SyntaxError|Undefined(Column|Table|Function)|Ambiguous|Grouping|DatatypeMismatch)"
    r"|column \S+ does not exist|IndeterminateDatatype|could not determine data type"
)
# They only order what Postgres does, locks before rows: whoever goes without waits wrongly, and that
# is seen by two sessions, not by one.
_ORDER = re.compile(r"\(SELECT count\(\*\) FROM \w+\) >= 0")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one file; `what` is shown where nothing noticed it.

    `statement`: the name of what it stands in, in a module of SQL; `nth`: of those there that look
    the same.
    """

    path: str
    line: int
    what: str
    source: str
    statement: str = ""
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


def unsaid(said: str) -> bool:
    """Whether a failure says that the changed statement was none: nothing is shown by that."""
    return bool(_UNSAID.search(said))


def of_sql(path: str, source: str) -> Iterator[Mutant]:
    """Each condition of each statement in the strings of a module, taken out alone."""
    alike: Counter[tuple[str, str]] = Counter()
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.STRING or not _SQL.search(token.string):
            continue
        if token.line.lstrip().startswith(('"""', "'''")) and token.start[1] <= 4:
            continue  # a docstring
        prefix = len(token.string) - len(token.string.lstrip("rfRF"))
        quotes = 3 if token.string[prefix:].startswith(('"""', "'''")) else 1
        at = lines[token.start[0] - 1] + token.start[1] + prefix + quotes
        text = token.string[prefix + quotes : len(token.string) - quotes]
        for start, end, said, instead in _conditions(text):
            if _ORDER.search(said):
                continue
            begin = at + start
            named = [("", ""), *_NAMED.findall(source, 0, begin)]
            what, statement = " ".join(said.split()), "".join(named[-1])
            alike[statement, what] += 1
            yield Mutant(
                path,
                source.count("\n", 0, begin) + 1,
                what,
                source[:begin] + instead + source[at + end :],
                statement,
                alike[statement, what],
            )


def _conditions(text: str) -> Iterator[tuple[int, int, str, str]]:
    words = list(_WORD.finditer(text))
    for n, word in enumerate(words):
        if word[0] not in _BEGIN:
            continue
        end = _end(words, n + 1)
        stop = words[end - 1].end() if end > n + 1 else word.end()
        said = text[word.start() : stop]
        if word[0] == "WHERE":
            yield word.start(), stop, said, "WHERE true"
        else:
            yield word.start(), stop, said, ""
    for n, word in enumerate(words):
        # `first AND second` at the beginning of a string or a parenthesis.
        if (n == 0 or words[n - 1][0] == "(") and word[0] not in (
            "SELECT",
            "WITH",
            "CASE",
            "INSERT",
        ):
            end = _end(words, n)
            if end < len(words) and words[end][0] in ("AND", "OR"):
                said = text[word.start() : words[end].end()]
                yield word.start(), words[end].end(), said, ""


def _end(words: list[re.Match[str]], n: int) -> int:
    """The place behind the condition that begins at word `n`."""
    depth = cases = 0
    while n < len(words):
        word = words[n][0]
        if word == "(":
            depth += 1
        elif word == ")":
            if depth == 0:
                return n
            depth -= 1
        elif word == "CASE" and depth == 0:
            cases += 1
        elif word == "END" and depth == 0 and cases:
            cases -= 1
        elif depth == 0 and not cases and (word in _ENDS or word == ","):
            if (word, words[n - 1][0]) != ("FROM", "DISTINCT"):
                return n
        n += 1
    return n


_TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
    ast.GtE: ast.Gt, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip


def of_python(path: str, source: str) -> Iterator[Mutant]:
    """Each comparison turned round, and/or exchanged, a not dropped, a number or set changed."""
    tree = ast.parse(source)
    for n, node in enumerate(ast.walk(tree)):
        for what, changed in _changes(node):
            twin = copy.deepcopy(tree)
            changed(list(ast.walk(twin))[n])
            line = getattr(node, "lineno", 0)
            yield Mutant(path, line, f"{ast.unparse(node)}: {what}", ast.unparse(twin))


def _changes(node: ast.AST) -> Iterator[tuple[str, Any]]:
    if isinstance(node, ast.Compare):
        for at, op in enumerate(node.ops):
            turned = _TURNED[type(op)]
            yield (
                turned.__name__,
                lambda twin, at=at, turned=turned: twin.ops.__setitem__(at, turned()),
            )
    elif isinstance(node, ast.BoolOp):
        other = ast.Or if isinstance(node.op, ast.And) else ast.And
        yield other.__name__, lambda twin: setattr(twin, "op", other())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "without not", lambda twin: setattr(twin, "op", ast.UAdd())
    elif isinstance(node, ast.Set) and len(node.elts) > 1:
        for at, each in enumerate(node.elts):
            yield f"without {ast.unparse(each)}", lambda twin, at=at: twin.elts.pop(at)
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield "one more", lambda twin: setattr(twin, "value", twin.value + 1)
