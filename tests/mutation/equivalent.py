"""What can be taken out and no test could tell: not counted, each with the reason why."""

from __future__ import annotations

from tests.mutation.mutants import Mutant

TWICE = (
    "asked twice, before the row's lock and under it: without the first the look is longer, without"
    " the second it matters only if the row changes between the two, and as this move does not wait"
    " for locks, nothing can hold that moment open"
)
SHORTER = "asked again under the row's lock; here it keeps the look short"
LOCKED = (
    "asked twice: the first is asked again when the row's lock is had, so that either is enough"
)
INDEXED = "follows from the owner or the state; it names the index that serves"
FENCED = "the join with SAME asks for the epoch as well; alone it only locks a row more"

# Of a module, of a statement in it: what is taken out (its beginning; with `1: ` the first of several
# alike), and why it makes no difference.
REASONS: dict[tuple[str, str], dict[str, str]] = {
    ("tasks/moves/doubt.py", "DOUBT"): {"AND {HELD}": FENCED},
    ("tasks/moves/doubt.py", "REAP_ARMED"): {
        "WHERE m.watch_at <=": "an armed row keeps the end of its working lease, which is earlier",
        "AND m.state = 'armed'": SHORTER,
        "AND m.armed_at <=": TWICE,
    },
    ("tasks/moves/doubt.py", "RESOLVE"): {
        "WHERE m.watch_at <=": TWICE,
        "AND m.state = 'in_doubt'": TWICE,
        "AND m.watch_at <=": TWICE,
        "m.state = 'in_doubt' AND": TWICE,
    },
    ("tasks/moves/reap.py", "REAP_WORKING"): {
        "WHERE m.watch_at <=": TWICE,
        "AND m.state = 'working'": TWICE,
        "AND m.watch_at <=": TWICE,
        "m.state = 'working' AND": TWICE,
    },
    ("tasks/moves/reap.py", "RELEASE_OWNER"): {
        "WHERE m.watch_at IS NOT NULL": INDEXED,
        "AND m.state = 'working'": SHORTER,
        "1: AND m.owner = :owner": SHORTER,
    },
    ("tasks/send/reply.py", ""): {
        "end > start: GtE": "an empty line is no reply, wherever it is cut",
    },
    ("tasks/moves/statement.py", "AFTERMATH"): {
        "AND was IS DISTINCT FROM now": "no move leaves a row in the terminal state that it is in",
    },
    ("tasks/moves/release.py", "GIVE_BACK"): {"{HELD} AND": FENCED},
    ("tasks/moves/release.py", "FAIL"): {"AND {HELD}": FENCED},
    ("tasks/moves/release.py", "REFUSE"): {"AND {HELD}": FENCED},
    ("tasks/moves/claim.py", "CLAIM"): {
        "WHERE h.watch_at IS NOT NULL": INDEXED,
        "m.maybe_delivered AND": "where no copy can be out no try was accepted; it spares the look",
        "WHERE c.message_id = m.id": "the hash is of the bytes, in which the Message-ID stands",
    },
    ("tasks/moves/stop.py", "END_ENROLLMENTS"): {"AND e.active": LOCKED},
    ("tasks/moves/stop.py", "SUPPRESS_QUEUED"): {"AND m.state IN": LOCKED},
    ("tasks/moves/evidence.py", "FIND"): {
        "r.id IS NULL AND": "who gives an id gives no Message-ID"
    },
    ("tasks/upkeep/capped.py", "OF_CAPS"): {
        "WHERE d.subscriber_id = o.subscriber_id": INDEXED.replace(
            "the owner or the state", "the id"
        ),
    },
    ("tasks/moves/reap.py", "HELD_BY_OWNER"): {"WHERE m.watch_at IS NOT NULL": INDEXED},
}


def reason_of(mutant: Mutant) -> str | None:
    """Why no test can notice this one; None: one ought to."""
    for what, reason in REASONS.get((mutant.path, mutant.statement), {}).items():
        if mutant.what.startswith(what) or f"{mutant.nth}: {mutant.what}".startswith(what):
            return reason
    return None
