"""Postgres, Redis and the relay: whether they answer, and are set up as a fleet needs them."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from models.migrate import current, head, role_faults
from models.session import Database, redacted
from tasks.errors import Misconfigured
from tasks.send.relay import Relay
from workers.doctor import standing
from workers.doctor.finding import Finding, error, fine, warning
from workers.logs import redact

OLDEST_POSTGRES = 15


def postgres(url: str) -> Iterator[Finding]:
    """The server, its schema and role, and then what the rows tell."""
    where = redacted(url)
    database = Database(url, name="dripfleet-doctor", size=1)
    stands = False
    try:
        with database.transaction() as connection:
            found = list(_server(connection, where))
            stands = all(finding.ok for finding in found)
        yield from found
    except SQLAlchemyError as fault:
        yield error(
            "postgres",
            f"{where} does not answer: {reason(fault)}",
            "start it, or correct DRIPFLEET_DATABASE_URL",
        )
    try:
        if stands:
            yield from standing.look(database)
    finally:
        database.close()


def _server(connection: Connection, where: str) -> Iterator[Finding]:
    version = int(connection.execute(text("SHOW server_version_num")).scalar_one()) // 10000
    if version < OLDEST_POSTGRES:
        yield error(
            "postgres",
            f"{where} is version {version}",
            f"use Postgres {OLDEST_POSTGRES} or newer",
        )
    else:
        yield fine("postgres", f"{where} answers, version {version}")
    stands, newest = current(connection), head()
    if stands != newest:
        yield error(
            "migrations",
            f"the schema is at {stands or 'nothing'}, this code at {newest}",
            "run `dripfleet migrate`; if the schema is the newer one, update this installation",
        )
    else:
        yield fine("migrations", f"the schema is at {stands}, as this code")
    if faults := role_faults(connection):
        yield warning(
            "role settings",
            f"not as they should be: {', '.join(faults)}",
            "run `dripfleet migrate` as the role that the fleet uses",
        )
    else:
        yield fine("role settings", "as they should be")


def redis(url: str) -> Iterator[Finding]:
    """The broker."""
    import redis as library

    where = redacted(url)
    if url.startswith("sentinel://"):
        yield fine("redis", f"{where} is a sentinel; the worker that starts will tell")
        return
    try:
        client = library.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
        try:
            server: Any = client.info()
        finally:
            client.close()
    except (library.RedisError, OSError, ValueError) as fault:
        yield error(
            "redis",
            f"{where} does not answer: {redact(str(fault))}",
            "start it, or correct DRIPFLEET_REDIS_URL; what is due stays due in Postgres",
        )
        return
    yield fine("redis", f"{where} answers, version {server.get('redis_version')}")
    policy = server.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield warning(
            "redis memory",
            f"maxmemory-policy {policy}",
            "set maxmemory-policy noeviction: a queue is no cache",
        )
    else:
        yield fine("redis memory", f"maxmemory-policy {policy}")


def smtp(url: str) -> Iterator[Finding]:
    """The relay, as far as its greeting."""
    try:
        relay = Relay.parse(url)
    except Misconfigured as fault:
        yield error("smtp", str(fault), "correct DRIPFLEET_SMTP_URL")
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
            offers = client.has_extn("starttls")
    except (OSError, smtplib.SMTPException, Misconfigured) as fault:
        yield error(
            "smtp",
            f"{relay} does not greet: {redact(str(fault))}",
            "start it, or correct DRIPFLEET_SMTP_URL",
        )
        return
    says = f"{relay} greets, {'offers STARTTLS' if offers else 'without STARTTLS'}"
    if relay.security == "starttls" and not offers:
        hint = "add ?starttls=never only for a relay on a network you trust"
        yield error("smtp", says, hint)
    elif code != 250:
        yield error("smtp", f"{relay} answers {code} to EHLO", "look at the relay's own log")
    else:
        yield fine("smtp", says)


def reason(fault: SQLAlchemyError) -> str:
    """The first line of what Postgres or its driver said, without secrets."""
    return redact(str(getattr(fault, "orig", fault)).strip().split("\n")[0])
