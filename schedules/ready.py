"""The sequences that ship, to start from: which there are, and a copy of one under a name of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SEQUENCES = Path(__file__).parent / "sequences"
SEGMENTS = Path(__file__).parent / "segments"

_KEY = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_TITLE = re.compile(r"^title: (.*)$", re.MULTILINE)
_BASE = re.compile(r"\"(_base/[a-z0-9_-]+\.(?:txt|html))\"")
_SEGMENT = re.compile(r"in_segment\('([a-z0-9_-]+)'\)|segment: ([a-z0-9_-]+)")


@dataclass(frozen=True, slots=True)
class Ready:
    """A sequence that ships.

    Attributes:
        key: its name.
        title: one line.
        source: the file as it stands, comments and all.
    """

    key: str
    title: str
    source: str

    @property
    def about(self) -> str:
        """What it does: the first line of its comment."""
        return self.source.partition("\n")[0].removeprefix("# ").rstrip(".")

    @property
    def segments(self) -> dict[str, str]:
        """Named segments that it asks for, and those that they ask for: key → file."""
        found: dict[str, str] = {}
        wanted = [self.source]
        while wanted:
            for one, other in _SEGMENT.findall(wanted.pop()):
                if (key := one or other) not in found:
                    found[key] = (SEGMENTS / f"{key}.yaml").read_text(encoding="utf-8")
                    wanted.append(found[key])
        return dict(sorted(found.items()))


def ready() -> list[Ready]:
    """All that ship, by key."""
    found = []
    for path in sorted(SEQUENCES.glob("*.yaml")):
        source = path.read_text(encoding="utf-8")
        title = _TITLE.search(source)
        assert title is not None, f"{path.name} has no title"
        found.append(Ready(path.stem, title[1], source))
    return found


def copy(key: str, name: str, templates: Path) -> dict[str, str]:
    """A ready sequence under another name: path below the folder of work → its text.

    The file comes as `NAME.yaml`, its mails and prompts as `templates/NAME/…`, and with them what
    they share with others: `templates/_base/…`, and `segments/…`. Its holdout divides people anew.

    Args:
        key: of the sequence to start from.
        name: of the new one.
        templates: the folder where those that ship are.

    Raises:
        ValueError: there is no such sequence, or the name is none; says what was expected.
    """
    there = {each.key: each for each in ready()}
    if key not in there:
        raise ValueError(f"no ready sequence {key!r}: expected one of {', '.join(there)}")
    if not _KEY.fullmatch(name) or name in there:
        what = "is one that ships" if name in there else "is no key"
        raise ValueError(
            f"the name {name!r} {what}: expected a new short name of lower-case letters, digits,"
            " '-' and '_', such as my-welcome"
        )
    source = there[key].source
    source = re.sub(rf"^key: {key}$", f"key: {name}", source, flags=re.MULTILINE)
    source = re.sub(rf"\b(template|prompt): {key}/", rf"\1: {name}/", source)
    source = re.sub(r"\bsalt: [a-z0-9_-]+", f"salt: {name}", source)
    files = {
        f"{name}.yaml": source.replace(
            f"`dripfleet sequence report {key}`", f"`dripfleet sequence report {name}`"
        )
    }
    for below, theirs in ((templates / key, f"templates/{name}"),
                          (templates / "_prompts" / key, f"templates/_prompts/{name}")):  # fmt: skip
        for path in sorted(below.rglob("*")) if below.is_dir() else ():
            if path.is_file() and path.suffix in (".txt", ".html", ".yaml"):
                relative = path.relative_to(below).as_posix()
                files[f"{theirs}/{relative}"] = path.read_text(encoding="utf-8")
    for part in _shared(files, templates):
        files[f"templates/{part}"] = (templates / part).read_text(encoding="utf-8")
    files |= {f"segments/{segment}.yaml": text for segment, text in there[key].segments.items()}
    return files


def _shared(files: dict[str, str], templates: Path) -> Iterator[str]:
    """The `_base/…` parts that these name, and those that they name."""
    seen: set[str] = set()
    wanted = [part for text in files.values() for part in _BASE.findall(text)]
    while wanted:
        part = wanted.pop()
        if part not in seen:
            seen.add(part)
            yield part
            wanted += _BASE.findall((templates / part).read_text(encoding="utf-8"))
