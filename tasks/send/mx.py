"""The group of a recipient's domain: by table, else by its MX records, remembered with their TTL.

The name of a domain alone is asked for, and kept in this process and in Redis for as long as DNS says,
an hour at least and a day at most. A resolver that fails makes the domain a group of its own, for a
minute; one that fails three times running is not asked for half of one. So a mail waits for DNS no
longer than `PATIENCE`, and a dead resolver holds up a few.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

import structlog

from tasks.send.domains import by_mx, known
from tasks.send.transport import boottime

if TYPE_CHECKING:
    import redis

log = structlog.get_logger()

Resolve: TypeAlias = Callable[[str], tuple[list[str], float]]
"""Domain → the hosts that take its mail, the preferred first (none: it has no MX), and the TTL in
seconds; OSError where nobody can say."""

PREFIX: Final = "dripfleet:mx"
PATIENCE: Final = 3.0
LEAST, MOST = 3600.0, 86400.0
UNKNOWN_FOR: Final = 60.0
FAILURES: Final = 3
LEFT_ALONE: Final = 30.0
MOST_KEPT: Final = 50_000  # domains a process; then it begins anew


class Groups:
    """Domain → group, for one process; `of` never waits, `find` may, on a thread.

    Args:
        resolve: asks DNS; None: nobody is asked, and what no table knows is its own group.
        client: of Redis, where other processes find what this one asked; None: nowhere.
    """

    def __init__(self, resolve: Resolve | None = None, client: redis.Redis | None = None) -> None:
        self._resolve = resolve
        self._client = client
        self._kept: dict[str, tuple[str, float]] = {}
        self._failures = 0
        self._alone_until = 0.0

    def of(self, domain: str) -> str | None:
        """The group; None: `find` has to be called first."""
        kept = self._kept.get(domain)
        if kept is not None and kept[1] > boottime():
            return kept[0]
        group = known(domain)
        if group is None and self._resolve is None:
            group = domain
        if group is not None:
            self._keep(domain, group, float("inf"))
        elif self._alone_until > boottime():
            return domain
        return group

    def find(self, domain: str) -> str:
        """The group, asked of Redis, then of DNS; what it comes to holds even if both fail."""
        assert self._resolve is not None
        group, lasts = self._shared(domain), LEAST
        if group is None and self._alone_until > boottime():
            group, lasts = domain, UNKNOWN_FOR
        elif group is None:
            try:
                hosts, ttl = self._resolve(domain)
            except Exception as fault:  # whatever DNS or its library says: the mail goes on
                self._failed(fault)
                group, lasts = domain, UNKNOWN_FOR
            else:
                self._failures = 0
                group, lasts = by_mx(domain, hosts), min(max(ttl, LEAST), MOST)
                self._share(domain, group, lasts)
        self._keep(domain, group, boottime() + lasts)
        return group

    def _failed(self, fault: Exception) -> None:
        self._failures += 1
        if self._failures == FAILURES:
            self._failures = 0
            self._alone_until = boottime() + LEFT_ALONE
            log.warning(
                "mx_not_to_be_had",
                kind=type(fault).__name__,
                next="mend this machine's resolver; until then each domain has a pace of its own",
            )

    def _keep(self, domain: str, group: str, until: float) -> None:
        if len(self._kept) >= MOST_KEPT:
            self._kept.clear()
        self._kept[domain] = group, until

    def _shared(self, domain: str) -> str | None:
        if self._client is None:
            return None
        try:
            found = self._client.get(f"{PREFIX}:{domain}")
        except Exception as fault:
            _pass(fault)
            return None
        return None if found is None else found.decode() if isinstance(found, bytes) else str(found)

    def _share(self, domain: str, group: str, lasts: float) -> None:
        if self._client is None:
            return
        try:
            self._client.set(f"{PREFIX}:{domain}", group, ex=int(lasts))
        except Exception as fault:
            _pass(fault)


def ask_dns(domain: str) -> tuple[list[str], float]:
    """See `Resolve`; by dnspython and the resolvers of this machine."""
    import dns.exception
    import dns.resolver

    try:
        answer = dns.resolver.resolve(domain, "MX", lifetime=PATIENCE)
    except (dns.resolver.NoAnswer, dns.resolver.NXDOMAIN):
        return [], LEAST
    except dns.exception.DNSException as fault:
        raise OSError(str(fault)) from fault
    records = sorted(answer, key=lambda each: int(each.preference))
    ttl = answer.rrset.ttl if answer.rrset is not None else LEAST
    return [str(each.exchange) for each in records], float(ttl)


def _pass(fault: Exception) -> None:
    """Redis may be away: then DNS is asked by each process for itself."""
    from redis.exceptions import RedisError

    if not isinstance(fault, RedisError | OSError):
        raise fault
