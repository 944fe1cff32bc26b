"""One call of a model for one text: what it is sent, and what comes of the reply."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from tasks.personalize import checks, engine
from tasks.personalize.client import Answer, Down, Reply
from tasks.personalize.engine import Brief
from tasks.personalize.money import Reservation
from tasks.personalize.prices import Price
from tasks.personalize.store import End, Used, Wanted

LEAST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 3600.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Call:
    """A call that is to be made.

    Attributes:
        wanted: its text.
        tries: answers of it that were refused, the last for `fault`.
        most: millionths that it can cost.
    """

    wanted: Wanted
    brief: Brief
    price: Price
    messages: Sequence[Mapping[str, str]]
    form: Mapping[str, Any]
    most: int
    fault: str | None
    tries: int


@dataclass(frozen=True, slots=True)
class Came:
    """What came of a call: how its text stands, what it cost, and the fault of its server if any."""

    call: Call
    held: Reservation
    end: End
    down: Down | None = None


def prepared(
    wanted: Wanted, price: Price, output_tokens: int, fault: str | None, tries: int
) -> Call:
    """The call of a text; `fault` is why its last answer was refused."""
    brief = Brief.from_source(wanted.source)
    messages = engine.messages(brief, wanted.told, fault)
    form = engine.response_format(brief)
    most = price.cost(engine.most_tokens(messages, form), output_tokens)
    return Call(wanted, brief, price, messages, form, most, fault, tries)


def came_of(call: Call, held: Reservation, reply: Reply, retries: int) -> Came:
    """What comes of a reply: words, another try, or none."""
    wanted = call.wanted
    if isinstance(reply, Answer):
        return Came(call, held, _judged(call, reply, retries))
    if isinstance(reply, Down):
        log.warning("model_not_asked", model=wanted.model, why=reply.said)
        used = Used(1, call.most if reply.billed else 0)
        pause = min(max(reply.pause or 0.0, LEAST_PAUSE), LONGEST_PAUSE)
        end = End(wanted, why=reply.why, fault=call.fault, pause=pause, used=used)
        return Came(call, held, end, reply)
    log.error("text_refused", prompt=call.brief.name, why=reply.said)
    end = End(wanted, state="failed", why="refused", fault=reply.said, used=Used(1))
    return Came(call, held, end)


def _judged(call: Call, answer: Answer, retries: int) -> End:
    counted = answer.tokens_in is not None and answer.tokens_out is not None
    tokens_in, tokens_out = answer.tokens_in or 0, answer.tokens_out or 0
    # A server that counts nothing has cost what it could have.
    cost = call.price.cost(tokens_in, tokens_out) if counted else call.most
    used = Used(1, cost, tokens_in, tokens_out, answer.seconds)
    slots, found = checks.judge(answer.content, call.brief, call.wanted.told)
    if not found:
        words = json.dumps(slots, ensure_ascii=False)
        return End(call.wanted, state="ready", slots=words, used=used)
    log.warning("text_rejected", prompt=call.brief.name, checks=[check for check, _ in found])
    why = "; ".join(sentence for _, sentence in found)
    if call.tries < retries:
        return End(call.wanted, fault=why, tries=1, keeps=True, used=used)
    return End(call.wanted, state="failed", why="checks", fault=why, tries=1, used=used)
