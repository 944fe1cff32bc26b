"""40001 and 40P01 on every move, once each: a trigger that raises, counted by sequences.

A sequence keeps its count through the rollback that its own error causes, so what it says was raised
was raised.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, text

MOVES: Final = (
    (None, "scheduled"),
    ("scheduled", "working"),
    ("working", "armed"),
    ("working", "scheduled"),
    ("working", "failed"),
    ("armed", "sent"),
    ("armed", "failed"),
    ("armed", "scheduled"),
    ("armed", "in_doubt"),
    ("in_doubt", "scheduled"),
    ("in_doubt", "sent_assumed"),
)
"""Moves that a run makes again and again. The others an operator makes, who is told and asks again."""

STATES: Final = {2: "40001", 4: "40P01"}
"""At which occurrence of a move what is raised."""

INSTALL = text("""
CREATE FUNCTION chaos_raise() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    was text := CASE WHEN TG_OP = 'INSERT' THEN 'new' ELSE OLD.state::text END;
    counted text := 'chaos_' || was || '_' || NEW.state::text;
BEGIN
    IF to_regclass(counted) IS NOT NULL THEN
        CASE nextval(counted::regclass)
            WHEN 2 THEN RAISE EXCEPTION 'injected' USING ERRCODE = '40001';
            WHEN 4 THEN RAISE EXCEPTION 'injected' USING ERRCODE = '40P01';
            ELSE NULL;
        END CASE;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER chaos_raise_insert BEFORE INSERT ON message
    FOR EACH ROW EXECUTE FUNCTION chaos_raise();
CREATE TRIGGER chaos_raise_update BEFORE UPDATE ON message
    FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION chaos_raise();
""")


def install(connection: Connection) -> None:
    """Put the trigger and a sequence for each move into the database of a run."""
    for was, now in MOVES:
        connection.execute(text(f"CREATE SEQUENCE {_sequence(was, now)}"))
    connection.execute(INSTALL)


def raised(connection: Connection) -> dict[str, int]:
    """How often each was raised, by `SQLSTATE at MOVE`; 0: its move came too seldom."""
    counts = {}
    for was, now in MOVES:
        query = text(
            f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {_sequence(was, now)}"
        )
        seen = connection.execute(query).scalar_one()
        for occurrence, sqlstate in STATES.items():
            counts[f"{sqlstate} at {was or 'new'} → {now}"] = int(seen >= occurrence)
    return counts


def _sequence(was: str | None, now: str) -> str:
    return f"chaos_{was or 'new'}_{now}"
