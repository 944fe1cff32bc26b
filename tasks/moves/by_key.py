"""Rows are found by their keys, whatever Postgres thinks of its tables at the moment.

A plan is made once a connection and kept. One that is made of tables that nobody has analyzed yet, or
that were empty, reads all of them, or joins by their whole, and goes on to do so when they have grown.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, text

WAYS: Final = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin")
"""The ways of reading whole tables, switched off for the length of a transaction."""

SETTINGS: Final = ", ".join(f"set_config('{name}', 'off', true)" for name in WAYS)
"""They as columns of a SELECT, for statements that have one already."""

BY_KEY: Final = text(f"SELECT {SETTINGS}")


def by_key(connection: Connection) -> None:
    """Let what follows in this transaction find rows by key."""
    connection.execute(BY_KEY)
