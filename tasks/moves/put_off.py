"""What was put off by the pace of its domain comes back when the limit is another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, text

THROTTLED: Final = "throttled"
RESTING: Final = "domain_resting"
FULL: Final = "warm_up_day_full"
UNASKED: Final = "throttle_unreachable"
"""Why a mail is put off by the pace of its domain, as its row says: the rate or connections, the
provider's own word, the day of a warm-up, and that there is nobody to ask."""

REASONS: Final = (THROTTLED, RESTING, FULL, UNASKED)
WORDS: Final[Mapping[str, str]] = {
    THROTTLED: "its domain is given no more at this moment; `dripfleet relay list` has the limit",
    RESTING: "its domain asked us to slow down; `dripfleet relay list` has its rate",
    FULL: "the warm-up of its relay lets no more go today; `dripfleet relay list` has the number",
    UNASKED: "nobody could be asked whether its domain is given more; `dripfleet doctor`",
}
"""The same in words, with the next move."""

# Of the streams that name this relay, what waits for nothing but the pace of its domain. Hours that
# are allowed stay so: who may not be mailed at this hour is left where it is.
CALL_BACK = text("""
UPDATE message m SET run_at = clock_timestamp() + make_interval(secs => :after)
WHERE m.id IN (
    SELECT q.id FROM message q JOIN stream t ON t.key = q.stream
    WHERE q.run_at > (SELECT clock_timestamp() + make_interval(secs => :after)) AND q.run_at < 'infinity'
      AND q.state = 'scheduled' AND q.reason = ANY(:reasons)
      AND (q.allowed IS NULL OR q.allowed @> clock_timestamp())
      AND :relay = ANY(regexp_split_to_array(regexp_replace(t.relay, '=[0-9]+', '', 'g'), '[ ,]+'))
    ORDER BY q.id FOR NO KEY UPDATE OF q SKIP LOCKED)
""")


def call_back(connection: Connection, relay: str, after: float) -> int:
    """Make what was put off for a limit of this relay due soon; returns how many mails.

    `after` in seconds: by then every send worker has read that the limit is another one.
    """
    values = {"relay": relay, "reasons": list(REASONS), "after": after}
    return connection.execute(CALL_BACK, values).rowcount
