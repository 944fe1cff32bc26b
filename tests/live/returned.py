"""Bounces and complaints of mails that a test's fleet sent: the corpus, written anew for them."""

from __future__ import annotations

import itertools
from pathlib import Path

from tasks import return_path
from tasks.tokens import Keys, sign

CORPUS = Path(__file__).parents[1] / "data/inbound"
_KEYS = Keys("k1", {"k1": b"s" * 32})
_VERP = return_path.token(_KEYS, 500, 3, "zoe@example.org")
_LEAVE = sign(_KEYS, "unsubscribe", 500)
_MESSAGE_ID = "5ZQ3vT0y1oS8cKq2mB7dNw@example.com"
_numbers = itertools.count(1)


def mail(
    name: str, keys: Keys, message: int, to: str, *, epoch: int = 1, message_id: str = ""
) -> bytes:
    """A mail of the corpus, about this message; each is another mail."""
    number = next(_numbers)
    return (
        (CORPUS / f"{name}.eml")
        .read_text()
        .replace(_VERP, return_path.token(keys, message, epoch, to))
        .replace(_VERP.upper(), return_path.token(keys, message, epoch, to).upper())
        .replace(_LEAVE, sign(keys, "unsubscribe", message))
        .replace(_MESSAGE_ID, message_id.strip("<>") or _MESSAGE_ID)
        .replace("Message-ID: <bounce.1@", f"Message-ID: <bounce.{number}@")
        .replace(f"Message-ID: <{name}@", f"Message-ID: <{name}.{number}@")
        .encode()
    )
