"""Whom a command of `dripfleet churn` means: addresses, a file of them, or an expression."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import text

from models.session import Database
from tasks.errors import Permanent


def people(database: Database, segment: str | None, emails: list[str]) -> dict[int, str]:
    """Ids of subscribers, each with how it is shown.

    Raises:
        Permanent: an address that nobody has, or nobody at all.
        DefinitionError: an expression that is none.
    """
    if segment is None:
        return by_address(database, emails)
    if Path(segment).is_file():
        lines = Path(segment).read_text("utf-8-sig").splitlines()
        return by_address(database, [x.strip() for x in lines if x.strip() and x[0] != "#"])
    return _by_expression(database, segment)


def by_address(database: Database, emails: list[str]) -> dict[int, str]:
    """The subscribers with these addresses.

    Raises:
        Permanent: one is no address, or nobody's.
    """
    from tasks.audience.address import RefusedAddress, address_hmac, parse
    from tasks.audience.settings import load

    secret = load().key
    found: dict[int, str] = {}
    with database.transaction() as connection:
        for email in emails:
            try:
                hmac = address_hmac(secret, parse(email))
            except RefusedAddress as fault:
                raise Permanent(f"{email}: {fault}") from None
            row = connection.execute(
                text("SELECT s.id FROM subscriber s WHERE s.address_hmac = :hmac"), {"hmac": hmac}
            ).one_or_none()
            if row is None:
                raise Permanent(
                    f"nobody has the address {email}; `dripfleet subscribers import` brings people in"
                )
            found[row.id] = email
    if not found:
        raise Permanent("no address was given")
    return found


def _by_expression(database: Database, source: str) -> dict[int, str]:
    from schedules.expression import ExpressionError, read
    from tasks.segments import segment_sql

    try:
        expression = read(source)
    except ExpressionError as fault:
        raise Permanent(f"--segment {source!r}: {fault}; and no file has that name") from None
    condition, parameters = segment_sql(expression)
    with database.transaction() as connection:
        rows = connection.execute(
            text(f"SELECT s.id, s.address FROM subscriber s WHERE {condition} ORDER BY s.id"),
            parameters,
        )
        found = {row.id: row.address for row in rows}
    if not found:
        raise Permanent(f"the segment {source!r} holds for nobody")
    return found
