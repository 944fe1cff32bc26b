"""What became of one mail on the wire, as a value, and the rules that judge a reply.

::

    before the dot                          after it
    NotSent   deferred | refused |          Accepted   2yz
              hard_bounce |                 Deferred   4yz
              stream_fault | slow_down      Refused    5yz
                                            InDoubt    silence, close, garbage

Before the dot every fault is provably "not delivered": a server drops a transaction whose end it
never saw (RFC 5321 §4.1.1.4). After it only a reply tells (RFC 1047).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from tasks.send.reply import Reply


class Stage(StrEnum):
    """Where in the conversation it happened; ``dot`` means that the dot may have left."""

    CONNECT = "connect"
    GREETING = "greeting"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    BODY = "body"
    DOT = "dot"


class Kind(StrEnum):
    """What a mail that was not sent means for whom.

    deferred: try this mail again; refused: this mail ends; hard_bounce: and its address is dead;
    stream_fault: pause the stream, no mail is to blame; slow_down: 421, try again with fewer.
    """

    DEFERRED = "deferred"
    REFUSED = "refused"
    HARD_BOUNCE = "hard_bounce"
    STREAM_FAULT = "stream_fault"
    SLOW_DOWN = "slow_down"


@dataclass(frozen=True, slots=True)
class _Told:
    """``cause`` is our own word for it and free of addresses; the reply's text is not."""

    stage: Stage
    reply: Reply | None = None
    cause: str = ""

    @property
    def code(self) -> int | None:
        return None if self.reply is None else self.reply.code

    @property
    def enhanced(self) -> str | None:
        return None if self.reply is None else self.reply.enhanced

    @property
    def text(self) -> str:
        """The reply's text if there was one, else the cause; never to be logged."""
        return self.cause if self.reply is None else self.reply.text


@dataclass(frozen=True, slots=True)
class NotSent(_Told):
    """The dot was not written: provably no copy anywhere."""

    kind: Kind = Kind.DEFERRED


@dataclass(frozen=True, slots=True)
class Accepted(_Told):
    """2yz followed the dot: the relay has the mail."""


@dataclass(frozen=True, slots=True)
class Deferred(_Told):
    """4yz followed the dot: not taken, try again (with a code of 421: with fewer connections)."""


@dataclass(frozen=True, slots=True)
class Refused(_Told):
    """5yz followed the dot: not taken, and it will not be."""


@dataclass(frozen=True, slots=True)
class InDoubt(_Told):
    """The dot was written and no reply to it can be had: perhaps a copy is out."""


Outcome: TypeAlias = NotSent | Accepted | Deferred | Refused | InDoubt

_OF_THE_STREAM = frozenset({Stage.STARTTLS, Stage.AUTH})
_OF_THE_MOMENT = frozenset({Stage.GREETING, Stage.EHLO, Stage.BODY})
# Authentication required, too weak, failed, encryption required (RFC 4954 §6, RFC 3207 §4).
_OF_ACCESS = frozenset({530, 534, 535, 538})
# 5.1.x that speaks of the sender, or of an address found valid (RFC 3463 §3.2).
_NOT_THE_RECIPIENT = frozenset({"5.1.5", "5.1.7", "5.1.8", "5.1.9"})
_OF_THE_MAILBOX = frozenset({550, 551, 553})
# A bare 550 is also what a blocked relay hears (RFC 5321 §4.2.3, "policy reasons"); to take that
# for a dead mailbox would suppress a whole list, so any word of policy makes it a plain refusal.
_POLICY = re.compile(
    r"polic|spam|block|black|deny|denied|relay|reputation|listed|rbl|spf|dkim|dmarc|helo|ehlo|"
    r"sender|authent|rcpthosts|access|reject(?:ed)? by|dns|ptr|rate|quota|full|size|virus|tls|"
    r"#?5\.[2-9]\.\d",
    re.IGNORECASE,
)


def before_the_dot(stage: Stage, reply: Reply) -> NotSent:
    """Judge a reply that stopped the conversation at this stage."""
    return NotSent(stage, reply, _cause(stage, reply), _kind(stage, reply))


def after_the_dot(reply: Reply) -> Outcome:
    """Judge the reply to the dot."""
    match reply.code // 100:
        case 2:
            return Accepted(Stage.DOT, reply)
        case 4:
            return Deferred(Stage.DOT, reply)
        case 5:
            return Refused(Stage.DOT, reply)
        case _:
            return InDoubt(Stage.DOT, reply, "a reply to the dot that is none")


def _kind(stage: Stage, reply: Reply) -> Kind:
    if reply.code == 421:
        return Kind.SLOW_DOWN
    if reply.code in _OF_ACCESS or (reply.code // 100 == 5 and stage in _OF_THE_STREAM):
        return Kind.STREAM_FAULT
    # A relay that greets with 554 is having a bad day: nobody's mail and no stream is at fault.
    if reply.code // 100 != 5 or stage in _OF_THE_MOMENT:
        return Kind.DEFERRED
    if stage is Stage.RCPT and _names_a_dead_mailbox(reply):
        return Kind.HARD_BOUNCE
    return Kind.REFUSED


def _names_a_dead_mailbox(reply: Reply) -> bool:
    if reply.enhanced is not None:
        return reply.enhanced.startswith("5.1.") and reply.enhanced not in _NOT_THE_RECIPIENT
    return reply.code in _OF_THE_MAILBOX and _POLICY.search(reply.text) is None


def _cause(stage: Stage, reply: Reply) -> str:
    return f"the relay answered {reply.code} at {stage.value}"
