"""Files that go with a mail: attachments, and pictures that its page shows.

``templates/NAME/attachments/terms.pdf`` goes with every mail of the template; a file that ``body.html``
shows by ``<img src="cid:logo.png">`` goes within the page (RFC 2387, 2392), and is no attachment then. A
language's ``de-AT/attachments/`` stands in the place of the mail's own. Pictures of layouts lie in
``_base/attachments/``, and go with the mails whose pages show them.

They are a part of the bundle, by value and in base64, so that a retry finds the ones it began with, and
are laid out as MIME parts once a bundle and language. Nothing in them is a template. A reference becomes
the id of the file's octets when the folder is read, the same wherever the file lies.
"""

from __future__ import annotations

import binascii
import html
import re
from base64 import b64decode, b64encode, encodebytes
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, NoReturn
from unicodedata import normalize
from urllib.parse import quote, unquote

from tasks.errors import Permanent
from tasks.send import locales

LARGEST: Final = 5_000_000
"""Octets of all files of a template together; in base64 a third more travels, with every mail."""
LONGEST_NAME: Final = 120
FOLDER: Final = "attachments"
TYPES: Final[Mapping[str, str]] = {
    "csv": "text/csv", "ics": "text/calendar", "txt": "text/plain", "vcf": "text/vcard",
    "gif": "image/gif", "jpeg": "image/jpeg", "jpg": "image/jpeg", "png": "image/png",
    "svg": "image/svg+xml", "webp": "image/webp",
    "doc": "application/msword", "epub": "application/epub+zip", "json": "application/json",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "odp": "application/vnd.oasis.opendocument.presentation",
    "ods": "application/vnd.oasis.opendocument.spreadsheet",
    "odt": "application/vnd.oasis.opendocument.text", "pdf": "application/pdf",
    "pkpass": "application/vnd.apple.pkpass", "ppt": "application/vnd.ms-powerpoint",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "xls": "application/vnd.ms-excel",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "xml": "application/xml", "zip": "application/zip",
}  # fmt: skip
"""By the end of a name, the same on every machine: a mail is made again octet for octet."""

_BEGINNINGS: Final = {
    "gif": (b"GIF8",), "jpeg": (b"\xff\xd8\xff",), "jpg": (b"\xff\xd8\xff",), "pdf": (b"%PDF-",),
    "png": (b"\x89PNG\r\n\x1a\n",), "webp": (b"RIFF",),
    **dict.fromkeys(("docx", "epub", "odp", "ods", "odt", "pkpass", "pptx", "xlsx", "zip"), (b"PK",)),
}  # fmt: skip
_PATH: Final = re.compile(rf"(?P<at>(?:{locales.FOLDER}/)?|_base/){FOLDER}/(?P<name>[^/]+)")
_STRANGE: Final = re.compile(r'["\\<>|:*?/]')
# In an attribute, or in url(…) of a rule.
_SHOWN: Final = re.compile(r"""(?P<before>["'(=]\s*)cid:(?P<name>[^"'()<>\s]+)""", re.IGNORECASE)
_ID: Final = re.compile(r"[0-9a-f]{32}@attachments")
_LINE: Final = 54  # characters of a file's name in one line of a header


@dataclass(frozen=True, slots=True)
class Files:
    """The parts of the files of one mail, from their headers to their last line end.

    Attributes:
        shown: those that the page shows.
        attached: the others.
    """

    shown: tuple[bytes, ...] = ()
    attached: tuple[bytes, ...] = ()


NONE: Final = Files()


def is_file(path: str) -> bool:
    """Whether a path in a stored bundle is that of a file, and not of a template."""
    return _PATH.fullmatch(path) is not None


def read(root: Path, name: str, parts: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Read the files of a mail, and what its pages show.

    Args:
        root: the folder of templates.
        name: of the mail, a folder below it.
        parts: its templates.

    Returns:
        The templates, in which references are ids of octets; path → file, in base64.

    Raises:
        Permanent: a file cannot go with a mail, or a page shows one that is not there.
    """
    files: dict[str, str] = {}
    for at in ("", *(f"{locale}/" for locale in locales.in_parts(parts))):
        for file in _in_folder(root / name / at / FOLDER):
            files[f"{at}{FOLDER}/{normalize('NFC', file.name)}"] = _read(root, file)
    made = dict(parts)
    for path, source in parts.items():
        if path.endswith(".html"):
            made[path] = _SHOWN.sub(_known(root, name, path, files), source)
    return made, files


def check(name: str, files: Mapping[str, str]) -> None:
    """Hold files to what may go with a mail.

    Raises:
        Permanent: a name, a type or their size, in a sentence.
    """
    total = 0
    for path, source in files.items():
        if (found := _PATH.fullmatch(path)) is None:
            raise Permanent(f"template {name} cannot hold a file {path!r}; take it out")
        file = _file(name, path)
        try:
            octets = b64decode(source, validate=True)
        except binascii.Error:
            raise Permanent(f"{file} is not in base64; apply its sequence again") from None
        total += len(octets)
        _check_name(file, found["name"])
        _check_octets(file, found["name"].rpartition(".")[2].lower(), octets)
    if total > LARGEST:
        raise Permanent(
            f"the files of template {name} have {total:,} octets together, and every mail would carry"
            f" them: expected at most {LARGEST:,}; make them smaller, or link to them"
        )


def laid_out(name: str, parts: Mapping[str, str], files: Mapping[str, str], at: str) -> Files:
    """The parts for the mails of one language; `at` is `de-AT/`, or nothing.

    Raises:
        Permanent: a page shows a file that is not among them.
    """
    if not files and not any("cid:" in source for source in parts.values()):
        return NONE
    octets = {path: b64decode(source) for path, source in files.items()}
    by_id = {_id(each): path for path, each in octets.items()}
    shown: dict[str, str] = {}
    if f"{at}body.html" in parts:
        pages = [
            f"{at}body.html",
            *(p for p in parts if p.startswith("_base/") and p.endswith(".html")),
        ]
        for page in pages:
            for found in _SHOWN.finditer(parts[page]):
                if found["name"] not in by_id:
                    _not_there(name, page, found["name"])
                shown.setdefault(found["name"], by_id[found["name"]])
    own = f"{at}{FOLDER}/"
    if not any(path.startswith(own) for path in files):
        own = f"{FOLDER}/"
    return Files(
        tuple(_part(path, octets[path], identity) for identity, path in shown.items()),
        tuple(
            _part(path, octets[path], None)
            for path in sorted(files)
            if path.startswith(own) and _id(octets[path]) not in shown
        ),
    )


def remarks(
    parts: Mapping[str, str], files: Mapping[str, str]
) -> Iterator[tuple[str, str, str, str]]:
    """What a reader may stumble over, though it can be sent: check, severity, what is, next move."""
    sizes = {path: len(b64decode(source)) for path, source in files.items()}
    html_parts = "".join(source for path, source in parts.items() if path.endswith(".html"))
    for path, size in sizes.items():
        shown = _id(b64decode(files[path])) in html_parts
        if shown and size > 200_000:
            yield (
                "attachments", "warning", f"{path} has {size:,} octets, and the page waits for it",
                "make the picture smaller, or link to it",
            )  # fmt: skip
        if shown and path.lower().endswith((".svg", ".webp")):
            yield (
                "attachments", "warning", f"{path} is of a kind that many mail programs do not show",
                "save it as png or jpg",
            )  # fmt: skip
        if not shown and path.lower().endswith(".zip"):
            yield (
                "attachments", "warning", f"{path} is an archive, which filters like to hold back",
                "attach what is in it, or link to it",
            )  # fmt: skip
    if sum(sizes.values()) > 1_000_000:
        yield (
            "attachments", "warning",
            f"the files have {sum(sizes.values()):,} octets together, and go with every mail",
            "link to the large ones; a relay may take no mail of that size",
        )  # fmt: skip


def data_urls(page: str, files: Mapping[str, str]) -> str:
    """A rendered page with its pictures in it, for somebody who looks at it in a browser."""
    by_id = {_id(b64decode(source)): path for path, source in files.items()}

    def url(found: re.Match[str]) -> str:
        path = by_id.get(found["name"])
        if path is None:
            return found[0]
        return f"{found['before']}data:{TYPES[_ending(path)]};base64,{files[path]}"

    return _SHOWN.sub(url, page)


def _in_folder(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        return
    for file in sorted(folder.iterdir()):
        if file.name.startswith("."):
            continue  # what a desktop leaves behind
        if not file.is_file():
            raise Permanent(f"{file} is no file: expected files alone in {FOLDER}/; move it")
        yield file


def _read(root: Path, file: Path) -> str:
    shown = file.relative_to(root)
    try:
        if file.stat().st_size > LARGEST:
            raise Permanent(
                f"{shown} has over {LARGEST:,} octets, and every mail would carry them; make it"
                " smaller, or link to it"
            )
        octets = file.read_bytes()
    except OSError as error:
        raise Permanent(f"{shown} cannot be read ({error.strerror}); check the file") from None
    return b64encode(octets).decode()


def _known(
    root: Path, name: str, page: str, files: dict[str, str]
) -> Callable[[re.Match[str]], str]:
    """Gives the id in the place of a name; a layout's picture is read when it is asked for."""
    at = "" if page.startswith("_base/") else page.removesuffix("body.html")
    places = dict.fromkeys((f"{at}{FOLDER}/", f"{FOLDER}/"))

    def reference(found: re.Match[str]) -> str:
        named = normalize("NFC", unquote(html.unescape(found["name"])))
        if "{" in named:
            raise Permanent(
                f"{_file(name, page)} shows a file by an expression; write it out, like cid:logo.png"
            )
        path = next((f"{place}{named}" for place in places if f"{place}{named}" in files), None)
        if path is None:
            path = f"_base/{FOLDER}/{named}"
            if path not in files:
                if "/" in named or not (root / path).is_file():
                    _not_there(name, page, named)
                files[path] = _read(root, root / path)
        if not TYPES.get(_ending(path), "").startswith("image/"):
            raise Permanent(
                f"{_file(name, page)} shows cid:{named}, which is no picture: expected one of"
                f" {', '.join(e for e, kind in TYPES.items() if kind.startswith('image/'))}; link to it"
            )
        return f"{found['before']}cid:{_id(b64decode(files[path]))}"

    return reference


def _not_there(name: str, page: str, named: str) -> NoReturn:
    what = "a file that is not in its bundle" if _ID.fullmatch(named) else f"cid:{named}"
    raise Permanent(
        f"{_file(name, page)} shows {what}, and there is no file of that name in {name}/{FOLDER} or"
        f" _base/{FOLDER}; add it, or correct the name"
    )


def _check_name(file: str, name: str) -> None:
    if (
        len(name) > LONGEST_NAME
        or not name.isprintable()
        or _STRANGE.search(name)
        or name != name.strip()
        or name.startswith(".")
        or name in locales.OWN
    ):
        raise Permanent(
            f"{file!r} is no name that every system can save: expected at most {LONGEST_NAME} printable"
            " characters without quotes, slashes and < > | : * ?, and not that of a template; rename it"
        )


def _check_octets(file: str, ending: str, octets: bytes) -> None:
    if ending not in TYPES:
        raise Permanent(
            f"{file} is of a type that no mail should carry, or that is not known here: expected one"
            f" of {', '.join(sorted(TYPES))}; link to it"
        )
    if not octets:
        raise Permanent(f"{file} is empty; save it again, or take it out")
    if not octets.startswith(_BEGINNINGS.get(ending, (b"",))):
        raise Permanent(f"{file} is no {ending} by its first octets; save it again, or rename it")
    if TYPES[ending].startswith("text/"):
        try:
            octets.decode()
        except UnicodeDecodeError:
            raise Permanent(f"{file} is no UTF-8 text; save it again") from None


def _part(path: str, octets: bytes, identity: str | None) -> bytes:
    """One part; `identity`: of a file that the page shows."""
    name = path.rpartition("/")[2]
    kind = TYPES[_ending(path)]
    charset = "; charset=utf-8" if kind.startswith("text/") else ""
    how = "attachment" if identity is None else "inline"
    head = (
        f"Content-Type: {kind}{charset}\r\nContent-Transfer-Encoding: base64\r\n"
        f"Content-Disposition: {how};\r\n {named(name)}\r\n"
    )
    if identity is not None:
        head += f"Content-ID: <{identity}>\r\n"
    return f"{head}\r\n".encode() + encodebytes(octets).replace(b"\n", b"\r\n")


def named(name: str) -> str:
    """The parameter `filename`, folded: quoted, or in UTF-8 and in pieces if it must (RFC 2231)."""
    if name.isascii() and len(name) <= _LINE:
        return f'filename="{name}"'
    encoded = quote(name, safe="!#$&+-.^_`{}~")
    if len(encoded) <= _LINE:
        return f"filename*=utf-8''{encoded}"
    pieces = [""]
    for octet in re.findall("%..|.", encoded):
        if len(pieces[-1]) + len(octet) > _LINE:
            pieces.append("")
        pieces[-1] += octet
    pieces[0] = f"utf-8''{pieces[0]}"
    return ";\r\n ".join(f"filename*{n}*={piece}" for n, piece in enumerate(pieces))


def _ending(path: str) -> str:
    return path.rpartition(".")[2].lower()


def _id(octets: bytes) -> str:
    return f"{sha256(octets).hexdigest()[:32]}@attachments"


def _file(name: str, path: str) -> str:
    return path if path.startswith("_base/") else f"{name}/{path}"
