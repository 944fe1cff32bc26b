"""A mail's templates as one bundle, compiled once, rendered for each subscriber.

A *bundle* is everything a mail needs, by value: its own parts and every `_base/…` they name. It
is read from `templates/`, published to Postgres by hash, and rendered from there, so that a
retry weeks later finds the very sources it began with; at send time no file is read.

Variables of a template: `subscriber.first_name`, `.locale`, `.zone`, `.attributes.*`;
`sender.name`, `.postal_address`; `unsubscribe.mailto` (a whole `mailto:` URL), and where an edge is
`unsubscribe.url`, the page to leave by; `words.SLOT`, where a model filled the slots of a prompt, all
of them or none; `event.NAME`, the properties of the event that let somebody in, none where another
door did. A missing one raises; `| default('…')` is for those that may be missing, `| default('…',
true)` for empty ones.

A folder a locale (`de/`, `de-AT/`) may hold the mail's parts in another language; see `locales`. Files
that go with it lie in `attachments/`; see `attached`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import NoReturn

from jinja2 import Template, TemplateSyntaxError, UndefinedError, meta
from jinja2.exceptions import SecurityError

from tasks.errors import Permanent
from tasks.send import attachable, attached, locales
from tasks.send.inlining import inlined
from tasks.send.sandbox import Refused, Sandbox, budget

LARGEST_PART = 1_000_000  # characters of a rendered subject, text or html
NOT_EVERYWHERE: Mapping[str, object] = MappingProxyType({"words": {}, "event": {}, "confirm": {}})
"""Names that mails may have or not, and what stands for them where they have not."""
LARGEST_SOURCE = 256_000  # characters of one template file

_PARSER = Sandbox({})
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*(/[a-z0-9][a-z0-9-]*)*")
_PART = re.compile(
    rf"({locales.FOLDER}/)?((subject|body)\.txt|body\.html)|_base/[a-z0-9][a-z0-9_-]*\.(txt|html)"
)
_BLANKS = re.compile(r"[ \t]+")
_UNKNOWN = re.compile(r"'(\w+)' is undefined|has no attribute '(\w+)'")


@dataclass(frozen=True, eq=False)
class Bundle:
    """The sources of one mail, e.g. `thank-you/first`; equal bundles have equal hashes.

    Attributes:
        name: its folder.
        parts: path → template.
        files: path → what goes with it, in base64.
    """

    name: str
    parts: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check names and sizes, and that each part names only parts which are there."""
        if not _NAME.fullmatch(self.name):
            raise Permanent(
                f"template name {self.name!r} is not a path of lower-case words, like"
                " 'thank-you/first'; rename the folder"
            )
        for path in ("subject.txt", "body.txt"):
            if path not in self.parts:
                raise Permanent(f"template {self.name} has no {path}; every mail needs one: add it")
        for path, source in self.parts.items():
            if not _PART.fullmatch(path):
                raise Permanent(f"template {self.name} cannot hold a file {path!r}; take it out")
            if len(source) > LARGEST_SOURCE:
                raise Permanent(
                    f"{self.file(path)} has over {LARGEST_SOURCE} characters; make it shorter"
                )
        attachable.check(self.name, self.files)
        object.__setattr__(self, "parts", MappingProxyType(dict(sorted(self.parts.items()))))
        object.__setattr__(self, "files", MappingProxyType(dict(sorted(self.files.items()))))

    @cached_property
    def sha256(self) -> bytes:
        """32 bytes over the name and every (path, source), each with its length before it."""
        digest = sha256(b"dripfleet bundle 1\n")
        held = (*self.parts.items(), *self.files.items())
        for text in (self.name, *(each for part in held for each in part)):
            octets = text.encode()
            digest.update(b"%d:" % len(octets))
            digest.update(octets)
        return digest.digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bundle) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    @cached_property
    def locales(self) -> tuple[str, ...]:
        """The locales that it has a folder for, such as ``de`` and ``de-AT``."""
        return locales.in_parts(self.parts)

    def file(self, path: str) -> str:
        """Where `path` is found below `templates/`."""
        return path if path.startswith("_base/") else f"{self.name}/{path}"

    def to_json(self) -> str:
        """The bundle as stored; `from_json` gives one of the same hash."""
        return json.dumps({"name": self.name, "parts": self.stored}, ensure_ascii=False)

    @property
    def stored(self) -> dict[str, str]:
        """Templates and files as one, which `of_stored` takes apart."""
        return {**self.parts, **self.files}

    @classmethod
    def of_stored(cls, name: str, stored: Mapping[str, str]) -> Bundle:
        """The bundle of which `stored` is that."""
        files = {path: source for path, source in stored.items() if attachable.is_file(path)}
        return cls(name, {p: s for p, s in stored.items() if p not in files}, files)

    @classmethod
    def from_json(cls, text: str | bytes) -> Bundle:
        """Read what `to_json` wrote; `Permanent` for anything else."""
        try:
            stored = json.loads(text)
            name, parts = stored["name"], stored["parts"]
            "".join([name, *parts, *parts.values()]).encode()
        except (ValueError, TypeError, KeyError, AttributeError):
            raise Permanent(
                "a stored template bundle is not readable; apply its sequence again"
            ) from None
        return cls.of_stored(name, parts)


def bundle_from_folder(root: Path, name: str) -> Bundle:
    """Read the mail `name` below `root`, and what it names in `root/_base`.

    Line ends become LF, so that the hash does not depend on how git checked the files out.
    Rules of `<style>` are written into the elements here, once a version and not once a mail.
    `Permanent` names the file (and line) that is missing, unreadable or not a template.
    """
    if not _NAME.fullmatch(name) or not (root / name).is_dir():
        raise Permanent(f"no template folder {name!r} below {root}; make it or correct the name")
    own = ("subject.txt", "body.txt", "body.html")
    parts: dict[str, str] = {}
    wanted = [path for path in own if path != "body.html" or (root / name / path).exists()]
    for locale in locales.in_folder(root / name):
        wanted += [f"{locale}/{path}" for path in own if (root / name / locale / path).exists()]
    while wanted:
        path = wanted.pop()
        if path in parts:
            continue
        file = root / (path if path.startswith("_base/") else f"{name}/{path}")
        try:
            source = file.read_bytes().decode()
        except FileNotFoundError:
            raise Permanent(
                f"template {name} needs {file.relative_to(root)}, which is not there; add it"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise Permanent(
                f"{file.relative_to(root)} cannot be read as UTF-8 text"
                f" ({type(error).__name__}); save it again"
            ) from None
        parts[path] = source.replace("\r\n", "\n").replace("\r", "\n")
        wanted += _references(Bundle(name, {"subject.txt": "", "body.txt": "", **parts}), path)
    locales.require_whole(name, parts)
    return Bundle(name, *attachable.read(root, name, inlined(name, parts)))


def _references(bundle: Bundle, path: str) -> list[str]:
    """The `_base/…` files that one part extends, includes or imports."""
    found = []
    try:
        tree = _PARSER.parse(bundle.parts[path])
    except TemplateSyntaxError as error:
        _not_a_template(bundle, path, error)
    for name in meta.find_referenced_templates(tree):
        # An included text template is not escaped, so it must not reach an html part.
        if name is None or not name.startswith("_base/") or not _PART.fullmatch(name):
            raise Permanent(
                f"{bundle.file(path)} names a template by an expression or outside '_base/';"
                " write it out, like '_base/footer.txt'"
            )
        if name.rsplit(".")[-1] != path.rsplit(".")[-1]:
            raise Permanent(
                f"{bundle.file(path)} takes in {name}; text takes in text and html takes in html"
            )
        found.append(name)
    return found


def _not_a_template(bundle: Bundle, path: str, error: TemplateSyntaxError) -> NoReturn:
    raise Permanent(
        f"{bundle.file(path)} line {error.lineno}: {error.message}; correct the template"
    ) from None


@dataclass(frozen=True, slots=True)
class Rendered:
    """One mail's words: `subject` is stripped, its runs of blanks made one; `html` may be None."""

    subject: str
    text: str
    html: str | None


class CompiledMail:
    """The templates of a bundle, ready to be rendered by any number of threads."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        locales.require_whole(bundle.name, bundle.parts)
        self._check_references()
        sandbox = Sandbox(bundle.parts)
        self._templates: dict[str, Template] = {}
        for path in bundle.parts:
            try:
                with budget():  # constants are folded while compiling
                    self._templates[path] = sandbox.get_template(path)
            except TemplateSyntaxError as error:
                _not_a_template(bundle, error.name or path, error)
            except Exception as error:
                raise Permanent(
                    f"{bundle.file(path)} cannot be compiled ({type(error).__name__});"
                    " simplify the template"
                ) from None

    def render(self, variables: Mapping[str, object]) -> Rendered:
        """The mail for one subscriber.

        `variables` are JSON values under `subscriber`, `sender` and `unsubscribe`, `words` where a
        model filled slots, and `event` where one let them in. Every fault is `Permanent`, with file
        and line, and never with a value of a variable in it.
        """
        variables = {**NOT_EVERYWHERE, **variables}
        at = self.at(variables)
        subject = one_line(self._part(f"{at}subject.txt", variables))
        text = self._part(f"{at}body.txt", variables)
        page = f"{at}body.html"
        html = self._part(page, variables) if page in self._templates else None
        return Rendered(subject, text, html)

    @property
    def places(self) -> list[str]:
        """What may stand before the names of a mail's parts: nothing, and each of its languages."""
        return ["", *(f"{locale}/" for locale in self.bundle.locales)]

    def at(self, variables: Mapping[str, object]) -> str:
        """As `place`."""
        return place(self.bundle, variables)

    def _part(self, path: str, variables: Mapping[str, object]) -> str:
        template = self._templates[path]
        pieces: list[str] = []
        size = 0
        try:
            with budget():
                for piece in template.root_render_func(template.new_context(dict(variables))):
                    size += len(piece)
                    if size > LARGEST_PART:
                        raise Refused(f"its output is over {LARGEST_PART} characters")
                    pieces.append(piece)
        except Exception as error:
            self._fault(path, error)
        return "".join(pieces)

    def _fault(self, path: str, error: Exception) -> NoReturn:
        """Say what went wrong without the exception's own text, which may quote a variable."""
        place, line = path, 0
        for frame, number in _frames(error.__traceback__):
            place, line = frame.name or path, frame.get_corresponding_lineno(number)
        source = self.bundle.parts[place].splitlines()
        written = source[line - 1] if 0 < line <= len(source) else ""
        what, move = f"it raised {type(error).__name__}", "correct the expression"
        if isinstance(error, Refused):
            what = str(error)
        elif isinstance(error, SecurityError):
            what = "it reaches for something that a template may not have"
        elif isinstance(error, UndefinedError):
            what, move = "a name is not defined", "correct it, or give it `| default(…)`"
            found = _UNKNOWN.search(str(error))
            name = found and (found[1] or found[2])
            # A computed key may be a value: only what the template itself spells is repeated.
            if name and re.search(rf"\b{re.escape(name)}\b", written):
                what = f"{name!r} is not defined"
        elif isinstance(error, MemoryError):
            what, move = "it asked for more memory than there is", "make the template smaller"
        elif isinstance(error, RecursionError):
            what, move = "it calls itself without an end", "take the recursion out"
        raise Permanent(f"{self.bundle.file(place)} line {line}: {what}; {move}") from None

    def _check_references(self) -> None:
        """Every named part is there, and none takes itself in."""
        named = {path: _references(self.bundle, path) for path in self.bundle.parts}
        done: set[str] = set()

        def walk(path: str, above: tuple[str, ...]) -> None:
            for name in named[path]:
                if name not in named:
                    raise Permanent(
                        f"{self.bundle.file(path)} needs {name}, which is not in its bundle;"
                        " apply the sequence again"
                    )
                if name in (*above, path):
                    raise Permanent(f"{name} takes itself in; take the circle out")
                if name not in done:
                    walk(name, (*above, path))
            done.add(path)

        for path in named:
            walk(path, ())


def place(bundle: Bundle, variables: Mapping[str, object]) -> str:
    """What stands before the names of this subscriber's parts: ``de/``, or nothing."""
    subscriber = variables.get("subscriber")
    wanted = subscriber.get("locale") if isinstance(subscriber, Mapping) else None
    found = locales.choose(bundle.locales, wanted)
    return f"{found}/" if found else ""


def files_of(bundle: Bundle, variables: Mapping[str, object]) -> attached.Files:
    """What goes with this subscriber's mail, for `content.compose`.

    Raises:
        Permanent: a page shows a file that is not there.
    """
    return laid_out(bundle, place(bundle, variables))


@lru_cache(maxsize=64)
def laid_out(bundle: Bundle, at: str) -> attached.Files:
    """As `files_of`, for a language: `at` is what `place` gives."""
    return attached.laid_out(bundle.name, bundle.parts, bundle.files, at)


def _frames(trace: TracebackType | None) -> Iterator[tuple[Template, int]]:
    """The frames of templates in a traceback, outermost first."""
    while trace is not None:
        template = trace.tb_frame.f_globals.get("__jinja_template__")
        if template is not None:
            yield template, trace.tb_lineno
        trace = trace.tb_next


def one_line(subject: str) -> str:
    """A rendered subject, stripped, its runs of blanks made one."""
    return _BLANKS.sub(" ", subject.strip())


def compile(bundle: Bundle) -> CompiledMail:
    """Compile every part of `bundle` (about 10 ms); `Permanent` for what is no template."""
    return CompiledMail(bundle)


@lru_cache(maxsize=256)
def compiled(bundle: Bundle) -> CompiledMail:
    """`compile`, once a hash and process."""
    return compile(bundle)
