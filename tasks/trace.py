"""What the work tells whoever draws one mail's life. Nobody does by default: an empty call each.

::

    began = trace.spans.now()
    ...
    trace.spans.step("offer", mail, began, offered)

A mail's life is one trace: its id is made of the message's effect key, so that the planner and any
send worker, on any machine and in any year, write into the same one, and nothing is stored or
carried for it. `use` puts a real one in place; `workers.tracing` has one. A span names message,
epoch, stage and outcome, never an address or a relay's text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Protocol

HAND_OFF: Final = "hand_off"
STEPS: Final = ("claim", "render", "offer", "arm", "dot", "record")
"""The spans under `hand_off`, in the order of a mail that goes well; one set an epoch."""


class Planned(Protocol):
    """A message that the planner has written."""

    @property
    def effect_key(self) -> bytes:
        """What its trace is made of."""
        ...

    @property
    def enrollment_id(self) -> int:
        """Whose step it is."""
        ...

    @property
    def step_id(self) -> str:
        """Which step."""
        ...

    @property
    def state(self) -> str:
        """`scheduled`, or why it is none."""
        ...


class Held(Protocol):
    """A message that a send worker holds."""

    @property
    def id(self) -> int:
        """The message's."""
        ...

    @property
    def epoch(self) -> int:
        """Of this claim."""
        ...

    @property
    def effect_key(self) -> bytes:
        """What its trace is made of."""
        ...


class Spans:
    """The null one: it takes everything and keeps nothing. A real one overrides all of it.

    `began` is what `now` gave before the work; each span ends when it is told of.
    """

    def now(self) -> int:
        """The moment, in ns since 1970; 0 where nobody draws."""
        return 0

    def handed_off(self, messages: Sequence[Planned], began: int) -> None:
        """The planner has committed these: the root of each one's trace, linked to the batch."""

    def claimed(self, stream: str, rows: Sequence[Held], began: int) -> None:
        """A send worker has claimed these: a span for each, linked to the one of their batch."""

    def step(self, name: str, mail: Held, began: int, told: object) -> None:
        """One of `STEPS` is over; `told` is an outcome of the conversation, or a word of ours."""

    def recorded(self, answers: Sequence[tuple[Held, object]], began: int) -> None:
        """These replies have been committed in one cycle."""

    def rung(self, doorbell: str) -> Mapping[str, str] | None:
        """A doorbell is about to be rung; the headers that it carries (W3C Trace Context)."""
        return None

    def answering(self, doorbell: str, traceparent: str | None) -> AbstractContextManager[object]:
        """Around the task that answers a doorbell; a tick, which nobody rang, draws nothing."""
        return _NOTHING

    def close(self) -> None:
        """Let go of what was drawn; nothing is told after it."""


_NOTHING: Final = nullcontext()

spans: Spans = Spans()
"""The one of this process. Read it at each call: a fork or a test may have changed it."""


def use(chosen: Spans) -> Spans:
    """Put one in place; returns the one before."""
    global spans
    before, spans = spans, chosen
    return before
