"""G6: megabytes that the send worker shares with nobody, and how they grow with the mails it sent.

    python -m tests.bench.goals --only G6

Looked at after each window of whatever else is asked of the fleet; alone, after as many windows as it
takes to send 100 000 mails more than at the first look (`--quick`: four windows).
"""

from __future__ import annotations

from tests.bench.question import Answers, Plan
from tests.bench.whole_fleet import WholeFleet

ENOUGH = 100_000


class Memory:
    """Looks at one fleet."""

    def __init__(self, fleet: WholeFleet) -> None:
        self._fleet = fleet
        self._seen: list[float] = []
        self._since = 0

    def look(self) -> None:
        """After a window."""
        if self._seen:
            self._since += self._fleet.mails
        self._seen.append(self._fleet.private_megabytes("send"))

    def tell(self, plan: Plan, answers: Answers) -> None:
        """Answer G6, with more windows where there were too few mails."""
        most = 3 * plan.mails if plan.quick else ENOUGH
        while self._since < most:
            self._fleet.deliver("default", ("our sink", self._fleet.stack.home.sink().pid))
            self.look()
        answers.goals["G6"] = [self._seen[-1]]
        answers.goals["G6_growth"] = [100 * (self._seen[-1] / self._seen[0] - 1)]
        answers.row("mails between the first look at memory and the last", "", [float(self._since)])
        answers.row("the send worker's own memory at each look", "MB", self._seen)
