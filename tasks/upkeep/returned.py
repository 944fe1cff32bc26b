"""What came back lately, counted: for metrics, `doctor` and `inbound list`."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

# By an index of its time; what a provider calls delivered is written down only where it told something.
CAME_BACK = text("""
SELECT m.stream, f.kind, coalesce(f.class, '') AS class_, coalesce(f.code, '') AS code, f.source,
    count(DISTINCT f.message_id) AS mails, max(f.at) AS latest
FROM feedback f JOIN message m ON m.id = f.message_id
WHERE f.at > clock_timestamp() - make_interval(days => :days)
GROUP BY 1, 2, 3, 4, 5 ORDER BY mails DESC, 1, 2, 3, 4, 5
""")
# The same by fewer words, for a series each.
LAST_DAY = text("""
SELECT m.stream, f.kind, coalesce(f.class, '') AS class_, count(DISTINCT f.message_id) AS mails
FROM feedback f JOIN message m ON m.id = f.message_id
WHERE f.at > clock_timestamp() - interval '1 day' AND f.kind <> 'delivered'
GROUP BY 1, 2, 3
""")
RETURN_PATHS = text(
    "SELECT key, return_path FROM stream WHERE return_path IS NOT NULL ORDER BY key"
)


@dataclass(frozen=True, slots=True)
class CameBack:
    """Mails of a stream of which somebody said the same."""

    stream: str
    kind: str
    class_: str
    code: str
    source: str
    mails: int
    latest: object


def came_back(connection: Connection, days: int) -> list[CameBack]:
    """Count what came back within some days, the commonest first."""
    return [CameBack(**row._mapping) for row in connection.execute(CAME_BACK, {"days": days})]


def of_the_last_day(connection: Connection) -> dict[tuple[str, str, str], int]:
    """(stream, kind, class) → mails of which somebody said so within a day."""
    found = connection.execute(LAST_DAY)
    return {(row.stream, row.kind, row.class_): int(row.mails) for row in found}


def return_paths(connection: Connection) -> dict[str, str]:
    """Stream → the domain of its mails' return paths, where it has one."""
    return {row.key: row.return_path for row in connection.execute(RETURN_PATHS)}
