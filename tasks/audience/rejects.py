"""The rows that were left out of an import, and why: a file beside the one that was read."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path
from typing import TextIO

from tasks.errors import Permanent

_MOST_REASONS = 200


class Rejects:
    """Counts refused rows, and keeps them in a CSV file: line, reason, row as it was.

    The file appears with the first refused row, readable by its owner alone: it holds addresses.

    Args:
        path: where; None: count only.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.count = 0
        self.reasons: Counter[str] = Counter()
        self.first: list[tuple[int, str]] = []
        self._file: TextIO | None = None

    def add(self, line: int, reason: str, raw: str) -> None:
        """Refuse one row.

        Raises:
            Permanent: the file cannot be written.
        """
        self.count += 1
        if reason in self.reasons or len(self.reasons) < _MOST_REASONS:
            self.reasons[reason] += 1
        if len(self.first) < 5:
            self.first.append((line, reason))
        if self.path is None:
            return
        if self._file is None:
            self._file = self._open(self.path)
            csv.writer(self._file).writerow(("line", "reason", "row"))
        csv.writer(self._file).writerow((line, reason, raw.rstrip("\r\n")))

    def close(self) -> None:
        """Everything is on disk afterwards."""
        if self._file is not None:
            self._file.close()

    def _open(self, path: Path) -> TextIO:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            handle = os.open(path, flags, 0o600)
            os.fchmod(handle, 0o600)
        except OSError as error:
            raise Permanent(
                f"the rejects cannot be written to {path} ({error.strerror}); name another file"
                " with --rejects"
            ) from None
        return os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="")
