"""What the sink does wrong on purpose: at which stage, what, to whom, how often.

A rule is written ``stage:action[,key=value…]``::

    rcpt:550,rcpt=bounce*            every recipient whose address begins with bounce
    dot:accept_then_drop,p=0.01      one mail in a hundred is kept, and its sender left in doubt
    mail:451,limit=3                 the first three envelopes
    body:close                       the connection ends inside the body
    dot:stall,seconds=5              the reply to the dot comes five seconds late

Stages: connect, ehlo, mail, rcpt, data, body, dot. Actions: a code from 400 to 599 (421 closes too),
``close``, ``stall`` (wait, then go on), ``garbage`` (an answer that is none), ``drip`` (the answer byte
by byte; in the body: reading slowly), ``reset`` (the answer, and a TCP reset right behind it), and at the
dot ``accept_then_drop`` (in the ledger, no reply) and ``drop`` (no ledger line, no reply). ``stall``,
``garbage``, ``drip`` and ``reset`` disturb only the answer: at the dot the mail is in the ledger.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

STAGES = ("connect", "ehlo", "mail", "rcpt", "data", "body", "dot")
ACTIONS = ("close", "stall", "garbage", "drip", "reset", "accept_then_drop", "drop")
_BOUNCE = re.compile(r"bounce\+([45]\d\d)")


@dataclass(frozen=True)
class Fault:
    """One rule; see the module's text for its written form.

    Attributes:
        code: the SMTP code answered where `action` is ``code``.
        probability: of firing each time it is asked for.
        rcpt: pattern (``*``, ``?``) for the recipient in small letters, from the rcpt stage on.
        limit: fires at most so often.
        seconds: of a stall; of the pause after each byte of a drip (each packet in the body).
        label: its name in the counters, by default its written form.
    """

    stage: str
    action: str
    code: int = 0
    probability: float = 1.0
    rcpt: str = "*"
    limit: int | None = None
    seconds: float = 1.0
    label: str = ""

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"Fault stage {self.stage!r}: expected one of {', '.join(STAGES)}.")
        if self.action == "code":
            if not 400 <= self.code <= 599:
                raise ValueError(f"Fault code {self.code}: expected 400 to 599.")
        elif self.action not in ACTIONS:
            raise ValueError(
                f"Fault action {self.action!r}: expected a code or one of {', '.join(ACTIONS)}."
            )
        if self.action in ("accept_then_drop", "drop") and self.stage != "dot":
            raise ValueError(
                f"Fault {self.action} is for the dot, not for {self.stage}; use close."
            )
        if self.action == "reset" and self.stage == "body":
            raise ValueError("Fault reset is for an answer, and the body has none; use close.")
        if self.rcpt != "*" and STAGES.index(self.stage) < STAGES.index("rcpt"):
            raise ValueError(f"Fault at {self.stage}: no recipient is known yet; leave rcpt= out.")
        if not 0.0 <= self.probability <= 1.0 or self.seconds < 0:
            raise ValueError("Fault: p is from 0 to 1 and seconds is not negative.")
        if not self.label:
            what = str(self.code) if self.action == "code" else self.action
            object.__setattr__(self, "label", f"{self.stage}:{what}")

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read the written form.

        Raises:
            ValueError: with the part that is wrong and what was expected.
        """
        head, *pairs = (part.strip() for part in text.split(","))
        stage, colon, action = head.partition(":")
        if not colon:
            raise ValueError(f"Fault {text!r}: expected stage:action[,key=value…].")
        code = int(action) if action.isdigit() else 0
        fault = dict(pair.partition("=")[::2] for pair in pairs)
        if unknown := fault.keys() - {"p", "rcpt", "limit", "seconds"}:
            raise ValueError(f"Fault {text!r}: {unknown.pop()!r} is not p, rcpt, limit or seconds.")
        try:
            return cls(
                stage,
                "code" if code else action,
                code,
                probability=float(fault.get("p", "1")),
                rcpt=fault.get("rcpt", "*").lower(),
                limit=int(fault["limit"]) if "limit" in fault else None,
                seconds=float(fault.get("seconds", "1")),
                label=text,
            )
        except ValueError as error:
            raise ValueError(f"Fault {text!r}: {error}") from error


@dataclass
class Faults:
    """A plan: the first rule of a stage that matches and wins its draw fires.

    Attributes:
        rules: in the order in which they are asked.
        seed: of the draws; the same seed and the same traffic give the same faults.
        bounce_addresses: ``bounce+550@…`` is refused at RCPT with that code, without a rule.
        fired: how often each rule did, by label; rules that never fired stand there with 0.
    """

    rules: Sequence[Fault] = ()
    seed: int = 0
    bounce_addresses: bool = False
    fired: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._stages = {s: [r for r in self.rules if r.stage == s] for s in STAGES}
        self.fired.update({rule.label: 0 for rule in self.rules})

    @classmethod
    def parse(
        cls, texts: Iterable[str], *, seed: int = 0, bounce_addresses: bool = False
    ) -> Faults:
        """A plan from rules in their written form."""
        return cls([Fault.parse(t) for t in texts], seed, bounce_addresses)

    def stop(self) -> None:
        """Let no rule fire from now on; what has fired stays counted."""
        self._stages = {stage: [] for stage in STAGES}

    def pick(self, stage: str, rcpts: Sequence[str] = ()) -> Fault | None:
        """The fault that fires now, counted, or None."""
        for rule in self._stages[stage]:
            if rule.limit is not None and self.fired[rule.label] >= rule.limit:
                continue
            if rule.rcpt != "*" and not any(fnmatchcase(r.lower(), rule.rcpt) for r in rcpts):
                continue
            if rule.probability < 1.0 and self._random.random() >= rule.probability:
                continue
            self.fired[rule.label] += 1
            return rule
        if self.bounce_addresses and stage == "rcpt" and rcpts:
            if match := _BOUNCE.match(rcpts[-1].lower()):
                fault = Fault("rcpt", "code", int(match[1]), label=f"bounce+{match[1]}")
                self.fired[fault.label] += 1
                return fault
        return None
