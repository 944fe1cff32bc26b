"""Who claims and arms: one process incarnation on one boot of one machine."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from secrets import token_hex
from uuid import uuid4

_OWNER = re.compile(r"([0-9a-f]{12})/([0-9a-f]{16})")


@dataclass(frozen=True, slots=True)
class Owner:
    """One process incarnation on one boot of one machine: what rows and journals carry."""

    boot_id: str
    instance: str

    def __post_init__(self) -> None:
        if not _OWNER.fullmatch(str(self)):
            raise ValueError("an owner is 12 hex digits of boot id, '/', 16 of instance id")

    def __str__(self) -> str:
        return f"{self.boot_id}/{self.instance}"

    @classmethod
    def parse(cls, text: str) -> Owner:
        """Read what ``str(owner)`` wrote.

        Raises:
            ValueError: for anything else.
        """
        boot_id, _, instance = text.partition("/")
        return cls(boot_id, instance)


def owner() -> Owner:
    """A new identity; call it once in a process and keep it."""
    return Owner(boot_id(), token_hex(8))


@cache
def boot_id() -> str:
    """12 hex digits that differ from boot to boot; never the same twice where none can be had."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", "")[:12]
    except OSError:
        pass
    try:
        command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        digits = found.stdout.strip().replace("-", "").lower()[:12]
        if re.fullmatch("[0-9a-f]{12}", digits):
            return digits
    except (OSError, subprocess.SubprocessError):
        pass
    return uuid4().hex[:12]
