"""What a template may do: Jinja2's immutable sandbox, with every growth and every turn paid for.

Jinja's own sandbox keeps a template away from Python's insides, but not from a gigabyte of
padding or a loop of hours. Here a render has one *budget*, in units: a character produced costs
1, a turn of a loop or a call costs `TURN`. What can grow (operators, text methods, filters,
captured blocks) pays before it allocates, so a bomb raises `Refused` at once, in process. Filters
and methods come from allow-lists. Nothing that differs between two renders is left in (`random`,
`lipsum`, the address in an object's repr), since a retry must be byte-identical.

Variables are JSON values: text, numbers, booleans, null, lists and objects.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sized
from contextvars import ContextVar
from functools import lru_cache, update_wrapper
from string import Formatter
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import DictLoader, StrictUndefined, nodes
from jinja2.compiler import CodeGenerator, Frame, operators
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import (
    ImmutableSandboxedEnvironment,
    SandboxedEscapeFormatter,
    SandboxedFormatter,
)
from markupsafe import Markup

BUDGET = 10_000_000  # units a render of one part
TURN = 100  # units a turn of a loop, a call, a filter
LONGEST_NUMBER = 4096  # bits; Python's own limit for printing one is 4 300 digits

Filter = Callable[..., Any]


class Refused(SecurityError):
    """The template asked for something it may not have; the message holds no values."""


_LEFT: ContextVar[list[int] | None] = ContextVar("left", default=None)


class budget:  # a context, and in the way of every mail: a class costs a third of a generator
    """Everything rendered (or folded while compiling) inside may spend `units` in all."""

    __slots__ = ("_token", "_units")

    def __init__(self, units: int = BUDGET) -> None:
        self._units = units

    def __enter__(self) -> None:
        self._token = _LEFT.set([self._units])

    def __exit__(self, *_: object) -> None:
        _LEFT.reset(self._token)


def spend(units: int) -> None:
    """Take `units` from the render's budget; `Refused` when it is used up."""
    left = _LEFT.get()
    if left is None:
        raise Refused("a template was run outside its budget")
    left[0] -= units
    if left[0] < 0:
        raise Refused("it used up its budget of work: too many turns, or too much text built")


def _size(value: object) -> int:
    """Characters `value` may come to as text; only text and numbers have a text worth sending."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, int | float | None | Undefined):
        return 32 + (value.bit_length() // 3 if isinstance(value, int) else 0)
    raise Refused("only text and numbers can be written into text; join a list first")


def _length(value: object) -> int:
    kind = type(value)
    if kind is str or kind is list or kind is dict:
        return len(value)  # type: ignore[arg-type]
    # A strict undefined has a length that raises, and `default` must still get it.
    return len(value) if isinstance(value, Sized) and not isinstance(value, Undefined) else 0


@lru_cache(maxsize=1024)
def _widths(spec: str) -> int:
    """Sum of all numbers in a format specification, widths and precisions among them."""
    if "*" in spec:
        raise Refused("a width given as * is not allowed in a format")
    return sum(int(digits[:12]) for digits in re.findall(r"\d+", spec))


def _percent(text: str, values: object) -> None:
    """Pay for `text % values` before it is made."""
    if isinstance(values, Mapping):
        each: Iterable[object] = values.values()
    else:
        each = values if isinstance(values, tuple) else (values,)
    longest = max(map(_size, each), default=0)
    spend(len(text) + text.count("%") * longest + _widths(text))


def _number(value: object) -> int:
    return abs(value) if isinstance(value, int) else 0


def _replaced(text: str, old: str, new: str, *_: object, **__: object) -> int:
    return len(text) + str(text).count(str(old)) * len(str(new))


def _joined(items: Iterable[object], mark: str) -> list[object]:
    parts = list(items)
    spend(sum(map(_size, parts)) + len(mark) * len(parts))
    return parts


# What an argument asks for beyond the size of what comes in and goes out, in units.
_METHOD_PRICE: dict[str, Callable[..., int]] = {
    "center": lambda text, width, *_: _number(width),
    "ljust": lambda text, width, *_: _number(width),
    "rjust": lambda text, width, *_: _number(width),
    "zfill": lambda text, width, *_: _number(width),
    "replace": _replaced,
}
_FILTER_PRICE: dict[str, Callable[..., int]] = {
    "batch": lambda value, linecount, *_, **__: _number(linecount),
    "center": lambda value, width=80: _number(width),
    "indent": lambda value, width=4, *_, **__: (
        (str(value).count("\n") + 1) * (len(width) if isinstance(width, str) else _number(width))
    ),
    "replace": lambda value, old, new, *_, **__: _replaced(str(value), old, new),
    "round": lambda value, precision=0, *_, **__: 0 if _number(precision) <= 20 else BUDGET + 1,
    "slice": lambda value, slices, *_, **__: _number(slices) * TURN,
    "string": lambda value: _size(value),
    "sum": lambda value, attribute=None, start=0: _size(start) if start == 0 else BUDGET + 1,
    "truncate": lambda value, length=255, killwords=False, end="...", leeway=None: _size(end),
    "wordwrap": lambda value, width=79, long=True, wrapstring="\n", hyphens=True: (
        len(str(value)) * len(wrapstring or "\n")
    ),
}
_FILTERS = """abs batch capitalize center count d default dictsort e escape first float forceescape
format groupby indent int items join last length list lower map max min reject rejectattr replace
reverse round safe select selectattr slice sort string striptags sum title trim truncate unique
upper urlencode wordcount wordwrap""".split()

_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        """capitalize casefold center count endswith find index isalnum isalpha isascii isdecimal
        isdigit islower isnumeric isspace istitle isupper join ljust lower lstrip partition
        removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split
        splitlines startswith strip swapcase title upper zfill""".split()
    ),
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
    float: frozenset({"is_integer"}),
    int: frozenset(),
    LoopContext: frozenset(
        """changed cycle depth depth0 first index index0 last length nextitem previtem revindex
        revindex0""".split()
    ),
    Macro: frozenset(),
}
# Jinja's own objects; their attributes are blocks, macros and what a template has set itself.
_OWN = {"TemplateReference", "BlockReference", "TemplateModule", "Namespace", "Cycler", "Joiner"}


def _paid(name: str, plain: Filter) -> Filter:
    """The filter `plain`, paying for its input, for its arguments, and for text that it makes."""
    price = _FILTER_PRICE.get(name)
    # `map`, `default`, `join` and others take the context first; Jinja marks them.
    marked = hasattr(plain, "jinja_pass_arg")

    def paid(*args: Any, **kwargs: Any) -> Any:
        own = args[1:] if marked else args
        spend(TURN + _length(own[0]))
        if price is not None:
            spend(price(*own, **kwargs))
        elif name == "format":
            _percent(str(own[0]), kwargs or own[1:])
        elif name == "join" and not (kwargs.get("attribute") or own[2:]):
            parts = _joined(own[0], str(kwargs.get("d", own[1] if own[1:] else "")))
            args = (*args[: -len(own)], parts, *own[1:])
        elif name == "join":
            raise Refused("join by an attribute is not available; use map(attribute=…) first")
        made = plain(*args, **kwargs)
        if isinstance(made, str):
            spend(len(made))
        return made

    return update_wrapper(paid, plain)


class _Code(CodeGenerator):
    """Compiled templates count the turns of their loops and the text of `~`."""

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        turn = nodes.EnvironmentAttribute("turn", lineno=node.lineno)
        # A filtered loop works in its test, where the body may never be reached.
        if node.test is not None:
            node.test = nodes.And(turn, node.test, lineno=node.lineno)
        else:
            node.body.insert(0, nodes.ExprStmt(turn, lineno=node.lineno))
        super().visit_For(node, frame)

    def visit_EnvironmentAttribute(self, node: nodes.EnvironmentAttribute, frame: Frame) -> None:
        self.write(f"environment.{node.name}()")

    def visit_Include(self, node: nodes.Include, frame: Frame) -> None:
        self.writeline("environment.turn()", node)
        super().visit_Include(node, frame)

    def visit_Operand(self, node: nodes.Operand, frame: Frame) -> None:
        if isinstance(node.expr, nodes.Const):
            super().visit_Operand(node, frame)
            return
        self.write(f" {operators[node.op]} environment.read_through(")
        self.visit(node.expr, frame)
        self.write(")")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if not isinstance(node.arg, nodes.Slice):
            super().visit_Getitem(node, frame)
            return
        self.write("environment.read_through(")
        self.visit(node.node, frame)
        self.write(")[")
        self.visit(node.arg, frame)
        self.write("]")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        # `pay_for` answers its argument, so the join sees the very list that was paid for.
        kind = "markup_join" if frame.eval_ctx.autoescape else "str_join"
        if frame.eval_ctx.volatile:
            kind = "(markup_join if context.eval_ctx.autoescape else str_join)"
        self.write(f"{kind}(environment.pay_for((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write(")))")


class _Format:
    """Mixed into both of Jinja's sandboxed formatters: a field pays for its width and value."""

    def format_field(self, value: Any, format_spec: str) -> str:
        spend(_size(value) + _widths(format_spec))
        return super().format_field(value, format_spec)  # type: ignore[misc,no-any-return]

    def convert_field(self, value: Any, conversion: Any) -> Any:
        spend(_size(value))
        return super().convert_field(value, conversion)  # type: ignore[misc]


class _PlainFormat(_Format, SandboxedFormatter):
    pass


class _EscapeFormat(_Format, SandboxedEscapeFormatter):
    pass


# What Python itself formats, with nothing to reach for behind it.
EXACT = frozenset({str, int, float})


@lru_cache(maxsize=1024)
def plain_fields(text: str) -> tuple[tuple[str, str | None], ...] | None:
    """(text before, specification) of each field, if all are `{}` or `{:…}`; else None."""
    fields = []
    try:
        for before, name, spec, conversion in Formatter().parse(text):
            if name or conversion or "{" in (spec or ""):
                return None
            fields.append((before, None if name is None else spec or ""))
    except ValueError:  # the formatter says what is wrong, when it comes to it
        return None
    return tuple(fields)


def filled(fields: tuple[tuple[str, str | None], ...], values: Iterable[object]) -> str:
    """What the sandboxed formatters make of such fields, for the same price."""
    left = iter(values)
    pieces = []
    for before, spec in fields:
        pieces.append(before)
        if spec is not None:
            try:
                value = next(left)
            except StopIteration:
                raise IndexError("more fields than values") from None
            spend(2 * _size(value) + _widths(spec))
            pieces.append(format(value, spec))
    return "".join(pieces)


def _range(*args: int) -> range:
    turns = range(*args)
    spend(len(turns))
    return turns


def _printable(value: object) -> object:
    """What `{{ … }}` may print: "Hi None" and `<built-in method …>` are not mail."""
    if type(value) is str:
        spend(len(value))
    elif value is None:
        raise Refused("a value is null; write `| default('…', true)` where it may be missing")
    elif not isinstance(value, Undefined):
        spend(_size(value))
    return value


def _concat(pieces: Iterable[str]) -> str:
    parts = list(pieces)
    spend(sum(map(len, parts)))
    return "".join(parts)


class Sandbox(ImmutableSandboxedEnvironment):
    """One environment a bundle: its parts are the only templates there are."""

    code_generator_class: type[CodeGenerator] = _Code
    intercepted_binops = frozenset({"+", "*", "**", "%"})
    concat = staticmethod(_concat)

    def __init__(self, parts: Mapping[str, str]) -> None:
        super().__init__(
            loader=DictLoader(parts),
            autoescape=lambda name: name is not None and name.endswith(".html"),
            undefined=StrictUndefined,
            finalize=_printable,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            auto_reload=False,
        )
        self.filters = {name: _paid(name, FILTERS[name]) for name in _FILTERS}
        self.globals["range"] = _range
        del self.globals["lipsum"]
        self.tests = {name: test for name, test in self.tests.items() if name != "in"}

    def turn(self) -> bool:
        """One turn of a loop; called by compiled code."""
        spend(TURN)
        return True

    def read_through(self, value: Any) -> Any:
        """What a comparison, `in` or a slice goes through; called by compiled code."""
        spend(_length(value))
        return value

    def pay_for(self, parts: tuple[object, ...]) -> tuple[object, ...]:
        """The text of `a ~ b`; called by compiled code."""
        spend(sum(map(_size, parts)))
        return parts

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`a.b`: the key of an object before its methods, so that data may be named `items`."""
        if type(obj) is dict and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """By allow-list: an unknown type has no attributes here."""
        for kind, names in _METHODS.items():
            if isinstance(obj, kind):
                return attr in names
        return type(obj).__name__ in _OWN and super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`+ * ** %` pay for text, lists and long numbers before they are made."""
        if isinstance(left, float) or isinstance(right, float):
            pass
        elif isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() + right.bit_length()
            if operator == "**":
                bits = left.bit_length() * max(right, 0)
            if operator in ("*", "**") and bits > LONGEST_NUMBER:
                raise Refused("a number grew beyond 4 096 bits")
        elif operator == "*":
            many, times = (left, right) if isinstance(right, int) else (right, left)
            spend(_length(many) * _number(times))
        elif operator == "+":
            spend(_length(left) + _length(right))
        elif operator == "%" and isinstance(left, str):
            _percent(left, right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`text.format(…)` by a formatter that pays for each field; `format_map` is refused."""
        if not isinstance(value, MethodType | BuiltinMethodType):
            return None
        text = value.__self__
        if not isinstance(text, str) or value.__name__ != "format":
            return None
        kind = type(text)
        fields = plain_fields(text) if kind is str else None
        formatter = (
            _EscapeFormat(self, escape=text.escape)
            if isinstance(text, Markup)
            else _PlainFormat(self)
        )

        def formatted(*args: Any, **kwargs: Any) -> str:
            spend(len(text))
            if fields is not None and not kwargs and all(type(each) in EXACT for each in args):
                return filled(fields, args)
            return kind(formatter.vformat(text, args, kwargs))

        return formatted

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Every call from a template: a turn, and what a text method makes."""
        text = getattr(__obj, "__self__", None)
        spend(TURN + len(args))
        if isinstance(text, str):
            spend(len(text))
            name = __obj.__name__
            if name == "join":
                args = (_joined(args[0], text), *args[1:])
            price = _METHOD_PRICE.get(name)
            if price is not None:
                spend(price(text, *args, **kwargs))
        return super().call(__context, __obj, *args, **kwargs)
