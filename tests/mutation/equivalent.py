"""What can be taken out and nobody could tell: not counted, each with the reason why."""

from __future__ import annotations

from tests.mutation.mutants import Mutant

# (path, the beginning of what is taken out): why it makes no difference.
REASONS: dict[tuple[str, str], str] = {}


def reason_of(mutant: Mutant) -> str | None:
    """Why no test can notice this one; None: one ought to."""
    for (path, what), reason in REASONS.items():
        if mutant.path == path and mutant.what.startswith(what):
            return reason
    return None
