"""How a webhook is signed, what an answer means, and when it is tried again. Values in, values out.

Signatures are those of Standard Webhooks (standardwebhooks.com, spec v1): `webhook-id`,
`webhook-timestamp` and `webhook-signature` over `ID.SECONDS.BODY`, one for each secret that is good.
"""

from __future__ import annotations

import datetime as dt
import hmac
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import Any, Final, Literal

FIRST: Final = 10.0
"""Seconds until the second attempt; three times as many after each."""
LONGEST: Final = 8 * 3600.0
"""Seconds between two attempts at most."""
LONE: Final = 5
"""After so many failures in a row an endpoint is asked one thing at a time, and left alone between."""
GONE: Final = 410
"""The endpoint says of itself that it is gone for good."""

Kind = Literal["delivered", "again", "dead", "gone"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request: a status, or the `fault` in a word where there was none.

    `retry_after`: seconds that the other side asked for.
    """

    status: int | None
    fault: str | None = None
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a delivery; `after`: seconds until it is tried again."""

    kind: Kind
    after: float = 0.0


def secret(key: bytes, salt: bytes, number: int) -> bytes:
    """The secret of an endpoint, 32 octets; each number gives another one.

    Args:
        key: the fleet's own, for good.
        salt: of the endpoint.
        number: grows by one when it is turned.
    """
    return hmac.digest(key, b"dripfleet webhook 1\x00" + salt + number.to_bytes(8, "big"), sha256)


def shown(raw: bytes) -> str:
    """A secret as the libraries of Standard Webhooks take it: `whsec_` and base64."""
    return f"whsec_{b64encode(raw).decode()}"


def signed(secrets: Sequence[bytes], key: str, at: int, body: bytes) -> dict[str, str]:
    """The headers that tell a listener who speaks, and when.

    Args:
        secrets: all that are good now; a listener needs one of them.
        key: id of what is told, the same on every attempt.
        at: seconds since 1970, of this attempt.
        body: as it is sent.
    """
    said = f"{key}.{at}.".encode() + body
    signatures = (b64encode(hmac.digest(each, said, sha256)).decode() for each in secrets)
    return {
        "webhook-id": key,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(f"v1,{each}" for each in signatures),
    }


def body(
    kind: str, at: dt.datetime, data: Mapping[str, Any], who: Mapping[str, Any] | None
) -> bytes:
    """What is sent, as JSON: `type`, `timestamp` (when it happened), and `data` with `subscriber`."""
    told = dict(data) | ({"subscriber": dict(who)} if who is not None else {})
    content = {"type": kind, "timestamp": at.astimezone(dt.UTC).isoformat(), "data": told}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def delay(attempts: int, draw: float) -> float:
    """Seconds until the next attempt: about 10 s, 30 s, 90 s, 4.5 and 14 min, 40 min, 2, 6, then 8 h.

    Args:
        attempts: made so far, 1 or more.
        draw: from 0 to 1, at random: so that what failed together does not come back together.
    """
    return min(FIRST * 3.0 ** min(attempts - 1, 20), LONGEST) * (0.75 + draw / 2)


def judge(answer: Answer, attempts: int, age: float, draw: float, give_up: float) -> Verdict:
    """What becomes of a delivery.

    Args:
        answer: to this attempt.
        attempts: with this one.
        age: seconds since it happened.
        draw: as of `delay`.
        give_up: seconds of age after which it is a dead letter.
    """
    if answer.status is not None and 200 <= answer.status < 300:
        return Verdict("delivered")
    if answer.status == GONE:
        return Verdict("gone")
    after = max(delay(attempts, draw), min(answer.retry_after or 0.0, LONGEST))
    # Once more at the very end, rather than a wait that ends behind it.
    return Verdict("dead") if age >= give_up else Verdict("again", min(after, give_up - age + 1))


def rest(failures: int, draw: float) -> float:
    """Seconds that an endpoint is left alone after so many rounds without one success; 0: not at all."""
    return 0.0 if failures < LONE else min(delay(failures - LONE + 2, draw), 3600.0)


def retry_after(value: str, now: dt.datetime) -> float | None:
    """Seconds of a header `Retry-After` (RFC 9110, 10.2.3); None: it says nothing of use."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    if until.tzinfo is None:
        return None
    return max(0.0, (until - now).total_seconds())
