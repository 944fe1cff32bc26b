"""What providers tell by webhooks: is it theirs, and what does it say. Values in, values out.

Each module has `verify`, which raises `Forged` for whatever its provider did not send, and `reports`. Nothing
of a body is looked at before it is verified, but for the signature where that stands inside.

==========  =================================================  ================================
module      who says that it is theirs                         a mail is known by
==========  =================================================  ================================
`ses`       RSA over the SNS envelope, its topic on our list   envelope's sender, its Message-ID
`sendgrid`  ECDSA P-256 over timestamp and body                unique argument, its Message-ID
`mailgun`   HMAC over timestamp and token, each token once     variable, its Message-ID
`postmark`  basic authentication, and a path nobody knows      metadata
==========  =================================================  ================================
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

from tasks import return_path
from tasks.tokens import Keys
from tasks.track.report import Report

MOST: Final = 2_000
"""Events of one request."""


class Forged(Exception):
    """It is not the provider's, or too old; its text is for our log alone."""


def objects(body: bytes) -> list[dict[str, Any]]:
    """The objects of a body that is a JSON object, or a list of them.

    Raises:
        ValueError: it is neither.
    """
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("the body is no JSON") from None
    found = told if isinstance(told, list) else [told]
    if len(found) > MOST or not all(isinstance(each, dict) for each in found):
        raise ValueError(f"expected a JSON object, or at most {MOST} of them in a list")
    return found


def inside(told: dict[str, Any], *path: str) -> dict[str, Any]:
    """An object inside another; an empty one where there is none."""
    found: Any = told
    for each in path:
        found = found.get(each) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def words(value: object) -> str:
    """What a value says, if it is a text or a number; '' of anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return str(value)[:4_000]


def about(
    report: Report, keys: Keys, *told: object, message_id: object, to: object
) -> Report | None:
    """The same with its mail: by the first genuine token of what was told, else by its Message-ID.

    Args:
        report: what was said.
        keys: of the tokens.
        told: texts in which our token may stand.
        message_id: of the mail as we sent it, with or without brackets.
        to: the recipient; who is verified is believed.
    """
    for each in told:
        if (tried := return_path.find(keys, words(each))) is not None:
            return replace(
                report, message=tried.message, epoch=tried.epoch, tag=tried.tag
            ).bounded()
    named = words(message_id).strip()
    if not named or len(named) > 250 or not named.isprintable():
        return None
    recipient = words(to)
    return replace(
        report,
        rfc_message_id=named if named.startswith("<") else f"<{named}>",
        tag=return_path.tag(recipient) if "@" in recipient else None,
    ).bounded()
