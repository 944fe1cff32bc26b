"""A Maildir as a way in: what stands in `new` is taken, and moves to `cur` once it is committed.

Any number may read one Maildir: whoever comes second to a mail does nothing again.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import structlog

from tasks.errors import Misconfigured
from tasks.track.intake import LARGEST, Intake

log = structlog.get_logger()

BATCH: Final = 500


def is_maildir(folder: Path) -> bool:
    """Whether it is one."""
    return (folder / "new").is_dir() and (folder / "cur").is_dir()


def read(intake: Intake, folder: Path, most: int = BATCH) -> int:
    """Take at most `most` new mails, the oldest first; returns how many.

    Raises:
        Misconfigured: the folder is no Maildir.
    """
    if not is_maildir(folder):
        raise Misconfigured(
            f"{folder} is no Maildir (expected the folders new and cur in it); correct"
            " DRIPFLEET_INBOUND_MAILDIR, or have your MTA deliver there once"
        )
    done = 0
    for path in sorted((folder / "new").iterdir(), key=lambda path: path.name)[:most]:
        if path.name.startswith("."):
            continue
        try:
            with path.open("rb") as octets:
                taken = octets.read(LARGEST + 1)
        except FileNotFoundError:
            continue  # somebody else was here
        except OSError as fault:
            log.warning("mail_not_read", file=path.name, why=fault.strerror)
            continue
        intake.take(taken)
        done += 1
        with contextlib.suppress(FileNotFoundError):
            path.rename(folder / "cur" / f"{path.name.partition(':')[0]}:2,S")
    return done
