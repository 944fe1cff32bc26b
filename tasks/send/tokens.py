"""Tokens of mails: `tasks.tokens` says what they are; here is the one by which a reader leaves."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tasks.errors import Permanent
from tasks.tokens import KEY_ID, Keys, Purpose, read, sign

__all__ = [
    "KEY_ID", "Keys", "Purpose", "read", "read_unsubscribe_token", "sign", "unsubscribe_token",
]  # fmt: skip


def unsubscribe_token(secret: bytes, key_id: str, message_id: int) -> str:
    """The token by which the reader of a message leaves; `Permanent` for what is no key id."""
    if not re.fullmatch(KEY_ID, key_id):
        raise Permanent("a key id is 1 to 8 lower-case letters or digits; rename the key")
    return sign(Keys(key_id, {key_id: secret}), "unsubscribe", message_id)


def read_unsubscribe_token(secrets: Mapping[str, bytes], token: str) -> int | None:
    """The message id of a genuine token; None for anything else. `secrets` maps key ids."""
    ids = read(Keys("", secrets), "unsubscribe", token)
    return ids[0] if ids is not None and len(ids) == 1 else None
