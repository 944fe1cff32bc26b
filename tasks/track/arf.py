"""What a feedback report says (RFC 5965, its registry by RFC 6430 and RFC 6591)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

Said = Literal["complained", "left"]
_KINDS: Final[dict[str, Said]] = {
    "abuse": "complained",
    "fraud": "complained",
    "virus": "complained",
    "other": "complained",
    "opt-out": "left",
    "opt-out-list": "left",
}
OTHERWISE: Final = {
    "not-spam": "it says that the mail is no spam",
    "auth-failure": "it tells of a failed authentication (RFC 6591): look at SPF, DKIM and DMARC",
}
"""Feedback types of which nobody said stop."""


def of_fields(fields: Mapping[str, str]) -> Said | str:
    """What the reader said, or in a sentence why it is nothing to act on.

    Args:
        fields: of the part `message/feedback-report`, names in small letters.
    """
    kind = fields.get("feedback-type", "").split("(")[0].strip().lower()
    if not kind:
        return "a feedback report without a Feedback-Type"
    if kind in OTHERWISE:
        return f"a feedback report of type {kind}: {OTHERWISE[kind]}"
    # A type that is not registered is as `other` (RFC 5965 §7.3): somebody complained.
    return _KINDS.get(kind, "complained")
