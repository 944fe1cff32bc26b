"""The pace of each relay and group of domains, shared by all send workers: token buckets in Redis.

One script does all of it, by Redis's own clock: it fills the bucket, lowers and raises its rate by
what the group answered (additive increase, multiplicative decrease: Chiu and Jain 1989; slow start
and half of the rate as threshold: RFC 5681), and hands out tokens. A worker takes them by the second,
not by the mail. What a worker was granted and did not use it gives back with its next question; one
that dies loses it to nobody.

The state is a hash a group, gone after a day without use, and then the pace begins slowly again; so
does an emptied Redis. A Redis that cannot be asked grants nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import redis

PREFIX: Final = "dripfleet:pace"

# KEYS: the bucket; its processes (zset by last question); the relay's groups (zset by last use).
# ARGV: owner, wanted, unused, delivered, slowed (0 or 1), seconds to rest, ceiling a minute (0: none),
#       a number in [0, 1) for jitter, the group.
# Answers: granted, seconds until the next token, rate a minute, seconds of rest left, processes, and
#          how many of them come before this one.
SCRIPT: Final = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local owner, wanted, unused = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local delivered, slowed, wait = tonumber(ARGV[4]), ARGV[5] == '1', tonumber(ARGV[6])
local ceiling, jitter = tonumber(ARGV[7]), tonumber(ARGV[8])
local function number(value, otherwise) return tonumber(value or '') or otherwise end

redis.call('ZADD', KEYS[2], now, owner)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - 30)
local before, processes = 0, redis.call('ZRANGE', KEYS[2], 0, -1)
for _, other in ipairs(processes) do if other < owner then before = before + 1 end end

local h = redis.call('HMGET', KEYS[1], 'rate', 'calm', 'tokens', 'at', 'rest', 'cut', 'grown', 'done')
local rest, cut = number(h[5], 0), number(h[6], 0)
local rate, calm = number(h[1], ceiling / 8), math.min(number(h[2], ceiling), ceiling)
local least = math.min(ceiling, 1)
rate = math.max(least, math.min(rate, ceiling))
local at, grown, done = number(h[4], now), number(h[7], now), number(h[8], 0) + delivered
local tokens = number(h[3], 1)

if slowed then
    -- One burst of refusals on many connections is one sign, not many.
    if now - cut >= 5 then
        rate = math.max(least, rate / 2)
        calm, cut, tokens = rate, now, 0
        redis.call('HINCRBY', KEYS[1], 'cuts', 1)
    end
    rest = math.max(rest, now + wait * (1 + 0.25 * jitter))
    grown, done = now, 0
elseif now - grown >= 1 then
    -- A rate that is not used proves nothing about a higher one.
    local passed = math.min(now - grown, 60)
    if done > 0 and done * 60 / (now - grown) >= rate / 2 then
        if rate < calm then
            rate = math.min(calm, rate * 2 ^ (passed / 30))
        else
            rate = rate + ceiling * 0.05 * passed / 60
        end
        rate = math.min(rate, ceiling)
    end
    grown, done = now, 0
end

local granted, next_in = 0, 0
if ceiling > 0 then
    local held = math.max(1, rate / 30)
    tokens = math.min(held, tokens + unused + math.max(0, now - math.max(at, rest)) * rate / 60)
end
if rest > now then
    next_in = rest - now
elseif ceiling > 0 then
    granted = math.floor(math.min(wanted, tokens))
    tokens = tokens - granted
    if granted < wanted then next_in = (1 - (tokens - math.floor(tokens))) * 60 / rate end
else
    granted = wanted
end

redis.call('HSET', KEYS[1], 'rate', rate, 'calm', calm, 'tokens', tokens, 'at', now, 'rest', rest,
    'cut', cut, 'grown', grown, 'done', done, 'ceiling', ceiling)
redis.call('ZADD', KEYS[3], now, ARGV[9])
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, 86400) end
return {granted, tostring(next_in), tostring(rate), tostring(math.max(0, rest - now)), #processes, before}
"""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a process asks of a group's bucket, and what it has to tell.

    delivered: mails accepted since the last question; slowed: the group asked us to slow down, and
    nothing goes for `rest` seconds; unused: tokens of earlier that come back.
    """

    group: str
    wanted: int
    per_minute: float | None
    unused: int = 0
    delivered: int = 0
    slowed: bool = False
    rest: float = 0.0
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer: tokens; seconds until there are more; how the group stands; who asks with us.

    rate: mails a minute now, None where nothing limits it; `before` of `processes` come before this
    one, so that connections can be shared out to the last.
    """

    granted: int
    wait: float
    rate: float | None
    resting: float
    processes: int
    before: int

    def share(self, connections: int | None) -> int | None:
        """Of so many connections over all processes, those of this one; None: no limit."""
        if connections is None:
            return None
        each, over = divmod(connections, self.processes)
        return each + (self.before < over)


@dataclass(frozen=True, slots=True)
class Pacing:
    """How a group stands, as anybody may see it; `ceiling` 0: no rate is set."""

    group: str
    rate: float
    ceiling: float
    resting: float
    cuts: int


class Buckets:
    """The buckets of one relay, asked by one process.

    Args:
        client: of Redis, with short timeouts.
        relay: its name.
        owner: this process, unlike every other.

    Raises:
        redis.RedisError: from every method, if Redis cannot be asked.
    """

    def __init__(self, client: redis.Redis, relay: str, owner: str) -> None:
        self._client = client
        self._script = client.register_script(SCRIPT)
        self._relay = relay
        self._owner = owner

    def ask(self, asks: Sequence[Ask]) -> list[Grant]:
        """Answer these, in one round trip."""
        with self._client.pipeline(transaction=False) as pipe:
            for ask in asks:
                bucket = f"{PREFIX}:{self._relay}:{ask.group}"
                self._script(
                    keys=[bucket, f"{bucket}:who", f"{PREFIX}:{self._relay}"],
                    args=[
                        self._owner,
                        ask.wanted,
                        ask.unused,
                        ask.delivered,
                        int(ask.slowed),
                        ask.rest,
                        ask.per_minute or 0,
                        ask.jitter,
                        ask.group,
                    ],
                    client=pipe,
                )
            answers = pipe.execute()
        return [
            Grant(
                int(granted),
                float(wait),
                float(rate) if ask.per_minute else None,
                float(resting),
                int(processes),
                int(before),
            )
            for ask, (granted, wait, rate, resting, processes, before) in zip(
                asks, answers, strict=True
            )
        ]

    def leave(self, groups: Sequence[str]) -> None:
        """Share no connections any more: the others have them at their next question."""
        for group in groups:
            self._client.zrem(f"{PREFIX}:{self._relay}:{group}:who", self._owner)


def standing(client: redis.Redis, relay: str) -> list[Pacing]:
    """How the groups of a relay stand that were used within a day, the latest first."""
    seconds, micros = client.time()
    now = seconds + micros / 1e6
    latest: Any = client.zrevrange(f"{PREFIX}:{relay}", 0, 199)
    groups = [name.decode() if isinstance(name, bytes) else str(name) for name in latest]
    found = []
    for group in groups:
        names = ("rate", "ceiling", "rest", "cuts")
        values = client.hmget(f"{PREFIX}:{relay}:{group}", names)
        rate, ceiling, rest, cuts = (float(each or 0) for each in values)
        if values[1] is not None:
            found.append(Pacing(group, rate, ceiling, max(0.0, rest - now), int(cuts)))
    return found
