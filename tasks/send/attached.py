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

import re
from base64 import b64decode, encodebytes
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NoReturn
from urllib.parse import quote

from tasks.errors import Permanent

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


# In an attribute, or in url(…) of a rule.
SHOWN: Final = re.compile(r"""(?P<before>["'(=]\s*)cid:(?P<name>[^"'()<>\s]+)""", re.IGNORECASE)
ID: Final = re.compile(r"[0-9a-f]{32}@attachments")
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


def laid_out(name: str, parts: Mapping[str, str], files: Mapping[str, str], at: str) -> Files:
    """The parts for the mails of one language; `at` is `de-AT/`, or nothing.

    Raises:
        Permanent: a page shows a file that is not among them.
    """
    if not files and not any("cid:" in source for source in parts.values()):
        return NONE
    octets = {path: b64decode(source) for path, source in files.items()}
    by_id = {id_of(each): path for path, each in octets.items()}
    shown: dict[str, str] = {}
    if f"{at}body.html" in parts:
        pages = [
            f"{at}body.html",
            *(p for p in parts if p.startswith("_base/") and p.endswith(".html")),
        ]
        for page in pages:
            for found in SHOWN.finditer(parts[page]):
                if found["name"] not in by_id:
                    not_there(name, page, found["name"])
                shown.setdefault(found["name"], by_id[found["name"]])
    own = f"{at}{FOLDER}/"
    if not any(path.startswith(own) for path in files):
        own = f"{FOLDER}/"
    return Files(
        tuple(_part(path, octets[path], identity) for identity, path in shown.items()),
        tuple(
            _part(path, octets[path], None)
            for path in sorted(files)
            if path.startswith(own) and id_of(octets[path]) not in shown
        ),
    )


def data_urls(page: str, files: Mapping[str, str]) -> str:
    """A rendered page with its pictures in it, for somebody who looks at it in a browser."""
    by_id = {id_of(b64decode(source)): path for path, source in files.items()}

    def url(found: re.Match[str]) -> str:
        path = by_id.get(found["name"])
        if path is None:
            return found[0]
        return f"{found['before']}data:{TYPES[ending_of(path)]};base64,{files[path]}"

    return SHOWN.sub(url, page)


def _part(path: str, octets: bytes, identity: str | None) -> bytes:
    """One part; `identity`: of a file that the page shows."""
    name = path.rpartition("/")[2]
    kind = TYPES[ending_of(path)]
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


def ending_of(path: str) -> str:
    """The end of a file's name, as `TYPES` has it."""
    return path.rpartition(".")[2].lower()


def id_of(octets: bytes) -> str:
    """The Content-ID of a file, without its angle brackets."""
    return f"{sha256(octets).hexdigest()[:32]}@attachments"


def file_of(name: str, path: str) -> str:
    """Where a path of a bundle is found below `templates/`."""
    return path if path.startswith("_base/") else f"{name}/{path}"


def not_there(name: str, page: str, named: str) -> NoReturn:
    """Say that a page shows a file which nobody has.

    Raises:
        Permanent: always.
    """
    what = "a file that is not in its bundle" if ID.fullmatch(named) else f"cid:{named}"
    raise Permanent(
        f"{file_of(name, page)} shows {what}, and there is no file of that name in {name}/{FOLDER} or"
        f" _base/{FOLDER}; add it, or correct the name"
    )
