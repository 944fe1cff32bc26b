"""Which files may go with a mail, and where they are found in its folder.

``templates/NAME/attachments/`` holds those of a mail, ``templates/NAME/de-AT/attachments/`` those that stand
in their place in that language, ``templates/_base/attachments/`` the pictures of layouts.
"""

from __future__ import annotations

import binascii
import html
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final
from unicodedata import normalize
from urllib.parse import unquote

from tasks.errors import Permanent
from tasks.send import locales
from tasks.send.attached import FOLDER, SHOWN, TYPES, ending_of, file_of, id_of, not_there

LARGEST: Final = 5_000_000
"""Octets of all files of a template together; in base64 a third more travels, with every mail."""
LONGEST_NAME: Final = 120
_BEGINNINGS: Final = {
    "gif": (b"GIF8",), "jpeg": (b"\xff\xd8\xff",), "jpg": (b"\xff\xd8\xff",), "pdf": (b"%PDF-",),
    "png": (b"\x89PNG\r\n\x1a\n",), "webp": (b"RIFF",),
    **dict.fromkeys(("docx", "epub", "odp", "ods", "odt", "pkpass", "pptx", "xlsx", "zip"), (b"PK",)),
}  # fmt: skip
_PATH: Final = re.compile(rf"(?P<at>(?:{locales.FOLDER}/)?|_base/){FOLDER}/(?P<name>[^/]+)")
_STRANGE: Final = re.compile(r'["\\<>|:*?/]')


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
            made[path] = SHOWN.sub(_known(root, name, path, files), source)
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
        file = file_of(name, path)
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


def remarks(
    parts: Mapping[str, str], files: Mapping[str, str]
) -> Iterator[tuple[str, str, str, str]]:
    """What a reader may stumble over, though it can be sent: check, severity, what is, next move."""
    sizes = {path: len(b64decode(source)) for path, source in files.items()}
    html_parts = "".join(source for path, source in parts.items() if path.endswith(".html"))
    for path, size in sizes.items():
        shown = id_of(b64decode(files[path])) in html_parts
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
                f"{file_of(name, page)} shows a file by an expression; write it out, like cid:logo.png"
            )
        path = next((f"{place}{named}" for place in places if f"{place}{named}" in files), None)
        if path is None:
            path = f"_base/{FOLDER}/{named}"
            if path not in files:
                if "/" in named or not (root / path).is_file():
                    not_there(name, page, named)
                files[path] = _read(root, root / path)
        if not TYPES.get(ending_of(path), "").startswith("image/"):
            raise Permanent(
                f"{file_of(name, page)} shows cid:{named}, which is no picture: expected one of"
                f" {', '.join(e for e, kind in TYPES.items() if kind.startswith('image/'))}; link to it"
            )
        return f"{found['before']}cid:{id_of(b64decode(files[path]))}"

    return reference


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
