"""Every error of the fleet, one tree; the type says what happens next.

::

    DripfleetError
    ├── Transient      tried again by itself: a lost connection, a lock, a 4yz
    ├── Snooze         comes back later and costs no attempt: paused, throttled
    ├── Permanent      ends this step or this row: a broken address, a template that raises
    └── Misconfigured  stops the process: a missing URL, settings that contradict each other

A message names the thing, what was expected, and the next move.
"""

from __future__ import annotations


class DripfleetError(Exception):
    """Root of the tree; raised itself never."""


class Transient(DripfleetError):
    """The same call may succeed in a moment; it is retried."""


class Snooze(DripfleetError):
    """Not now, and nobody's fault; the work comes back and no attempt is counted."""


class Permanent(DripfleetError):
    """No retry can help; the step, row or file ends here with this as its reason."""


class Misconfigured(DripfleetError):
    """The operator has to change something before this process can do its work."""
