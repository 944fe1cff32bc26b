"""What `dripfleet doctor` looks at: each finding says what is, and the next move."""

from __future__ import annotations

import os
import smtplib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_settings import BaseSettings
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from models.migrate import current, head, role_faults
from models.session import Database, DatabaseSettings, redacted
from tasks.canary import store as canaries
from tasks.errors import Misconfigured
from tasks.names import POOLS
from tasks.send.relay import Relay
from workers.logs import redact
from workers.pools import BY_NAME
from workers.settings import FleetSettings, RedisSettings, named, panel, variable

OLDEST_POSTGRES = 15
SILENT_SECONDS = 120
# Not fields of a settings class.
OTHER_VARIABLES = ("DRIPFLEET_DEBUG", "DRIPFLEET_POOL", "DRIPFLEET_PARENT_FD")
FREE_PREFIXES = ("DRIPFLEET_SECRET_", "DRIPFLEET_SMTP_URL_", "DRIPFLEET_TEST_")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str
    ok: bool
    says: str
    next: str = ""


def examine(database_url: str, redis_url: str, smtp_url: str) -> list[Finding]:
    """Look at everything a fleet stands on; a server that is down hides nothing of the others."""
    found: list[Finding] = []
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        lambda: _postgres(database_url),
        lambda: _redis(redis_url),
        lambda: _smtp(smtp_url),
        _settings,
        lambda: _variables(os.environ),
        _extras,
    )
    for check in checks:
        found += check()
    return found


def _postgres(url: str) -> Iterator[Finding]:
    where = redacted(url)
    database = Database(url, name="dripfleet-doctor", size=1)
    try:
        with database.transaction() as connection:
            version = int(connection.execute(text("SHOW server_version_num")).scalar_one()) // 10000
            yield Finding(
                "postgres",
                version >= OLDEST_POSTGRES,
                f"{where} answers, version {version}",
                "" if version >= OLDEST_POSTGRES else f"use Postgres {OLDEST_POSTGRES} or newer",
            )
            stands, newest = current(connection), head()
            yield Finding(
                "migrations",
                stands == newest,
                f"the schema is at {stands or 'nothing'}, this code at {newest}",
                "" if stands == newest else "run `dripfleet migrate`",
            )
            faults = role_faults(connection)
            yield Finding(
                "role settings",
                not faults,
                f"not as they should be: {', '.join(faults)}" if faults else "as they should be",
                "run `dripfleet migrate` as the role that the fleet uses" if faults else "",
            )
            if stands == newest:
                yield from _pools(connection)
    except SQLAlchemyError as fault:
        reason = redact(str(getattr(fault, "orig", fault)).strip().split("\n")[0])
        yield Finding(
            "postgres",
            False,
            f"{where} does not answer: {reason}",
            "start it, or correct DRIPFLEET_DATABASE_URL",
        )
    finally:
        database.close()


def _pools(connection: Any) -> Iterator[Finding]:
    now, latest = canaries.now(connection), canaries.latest(connection)
    silent = [
        p for p in POOLS if p in latest and (now - latest[p]).total_seconds() > SILENT_SECONDS
    ]
    if latest and len(silent) < len(latest):  # else no fleet runs, which is no fault
        yield Finding(
            "pools",
            not silent,
            f"silent for {SILENT_SECONDS} s: {', '.join(silent)}" if silent else "all answer",
            "look at their logs, and start them again" if silent else "",
        )


def _redis(url: str) -> Iterator[Finding]:
    import redis

    where = redacted(url)
    if url.startswith("sentinel://"):
        yield Finding("redis", True, f"{where} is a sentinel; the worker that starts will tell")
        return
    client = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
    try:
        server: Any = client.info()
        yield Finding("redis", True, f"{where} answers, version {server.get('redis_version')}")
        policy = server.get("maxmemory_policy", "noeviction")
        yield Finding(
            "redis memory",
            policy == "noeviction",
            f"maxmemory-policy {policy}",
            ""
            if policy == "noeviction"
            else "set maxmemory-policy noeviction: a queue is no cache",
        )
    except (redis.RedisError, OSError) as fault:
        yield Finding(
            "redis",
            False,
            f"{where} does not answer: {redact(str(fault))}",
            "start it, or correct DRIPFLEET_REDIS_URL",
        )
    finally:
        client.close()


def _smtp(url: str) -> Iterator[Finding]:
    try:
        relay = Relay.parse(url)
    except Misconfigured as fault:
        yield Finding("smtp", False, str(fault), "correct DRIPFLEET_SMTP_URL")
        return
    try:
        if relay.security == "tls":
            client: smtplib.SMTP = smtplib.SMTP_SSL(
                relay.host, relay.port, timeout=10, context=relay.ssl_context()
            )
        else:
            client = smtplib.SMTP(relay.host, relay.port, timeout=10)
        with client:
            code, _ = client.ehlo()
            starttls = "offers STARTTLS" if client.has_extn("starttls") else "without STARTTLS"
            lacks = relay.security == "starttls" and not client.has_extn("starttls")
            yield Finding(
                "smtp",
                code == 250 and not lacks,
                f"{relay} greets, {starttls}",
                "add ?starttls=never only for a relay on a network you trust" if lacks else "",
            )
    except (OSError, smtplib.SMTPException, Misconfigured) as fault:
        yield Finding(
            "smtp",
            False,
            f"{relay} does not greet: {redact(str(fault))}",
            "start it, or correct DRIPFLEET_SMTP_URL",
        )


def _settings() -> Iterator[Finding]:
    paths = dict.fromkeys(path for pool in BY_NAME.values() for path in pool.settings)
    try:
        panel(FleetSettings, *map(named, paths))
    except Misconfigured as fault:
        yield Finding("settings", False, str(fault), "set them before starting a worker")
    else:
        yield Finding("settings", True, "complete, and do not contradict each other")


def _variables(environment: Mapping[str, str]) -> Iterator[Finding]:
    paths = dict.fromkeys(path for pool in BY_NAME.values() for path in pool.settings)
    kinds: list[type[BaseSettings]] = [DatabaseSettings, RedisSettings, FleetSettings]
    kinds += map(named, paths)
    known = {variable(kind, field) for kind in kinds for field in kind.model_fields}
    strange = sorted(
        name
        for name in environment
        if name.startswith("DRIPFLEET_")
        and name not in known
        and name not in OTHER_VARIABLES
        and not name.startswith(FREE_PREFIXES)
    )
    if strange:
        yield Finding(
            "variables",
            False,
            f"nobody reads {', '.join(strange)}",
            "correct the name, or unset it",
        )


def _extras() -> Iterator[Finding]:
    for pool in BY_NAME.values():
        if pool.lacks_extra():
            yield Finding(
                f"pool {pool.name}",
                False,
                f"the extra {pool.extra} is not installed; it answers its canary and no more",
                f"pip install 'dripfleet[{pool.extra}]', or do not run this pool",
            )
