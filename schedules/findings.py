"""What is wrong with a sequence file, and where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""Keys and positions from the root of a file, such as ``("steps", 0, "send", "template")``."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that is wrong with a file; ``line`` and ``column`` count from 1."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class DefinitionError(ValueError):
    """A definition that cannot be used: everything found in it, in the order of the file."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(sorted(findings))
        super().__init__("\n".join(str(finding) for finding in self.findings))


@dataclass(frozen=True, slots=True)
class Located:
    """Where each value of a file stands, by its path."""

    file: str
    places: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def at(self, *path: str | int) -> tuple[int, int]:
        """Return line and column of ``path``, else of the nearest thing around it."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return (1, 1)

    def finding(self, path: Path, message: str) -> Finding:
        """Return a finding that stands at ``path``."""
        return Finding(self.file, *self.at(*path), message)
