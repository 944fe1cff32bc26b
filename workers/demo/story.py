"""The demo's main job, step by step: the way that an operator's own customers would take.

Bring people in, bring in what they did, publish two sequences, enroll, and watch until nothing
more is due today. A second run finds what the first one did and goes on from there.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from models.session import Database
from tasks.audience.address import address_hmac
from tasks.audience.events import import_events
from tasks.audience.importer import import_subscribers
from tasks.audience.rejects import Rejects
from tasks.audience.settings import load
from tasks.audience.shift import fix_shift
from tasks.errors import Permanent
from tasks.sequence.enroll import BATCH, Tally, enroll_all, enroll_identities
from tasks.sequence.publish import publish, sample_subscribers, topic_keys
from tasks.upkeep.overview import Overview, overview
from workers.cli.render import number
from workers.demo import customers as cdnow
from workers.demo import words

SHORT = "thank-you"
LONG = "win-back"
QUIET = dt.timedelta(days=180)  # no purchase for so long: whom to win back

STEPS = text("""
SELECT c.sequence_key, c.step_id, c.outcome::text AS outcome, sum(c.n)::bigint AS n FROM counter c
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
""")
FIRST_SENT = text("SELECT min(id) FROM message WHERE state = 'sent' AND sequence_key = :key")


@dataclass(frozen=True, slots=True)
class Imported:
    """What the import brought: rows new to this database."""

    subscribers: int
    events: int
    shift: dt.timedelta


def bring_in(database: Database, count: int | None, say: Callable[[str], None]) -> Imported:
    """Import customers and purchases through the operator's own way in."""
    secret = load().key
    with database.transaction() as connection:
        shift = fix_shift(connection, cdnow.SOURCE, cdnow.LAST_PURCHASE)
    rejects = Rejects(None)
    people = import_subscribers(
        database, cdnow.subscribers_csv(count, shift), name="customers", secret=secret,
        rejects=rejects,
    )  # fmt: skip
    say(f"customers: {number(people.rows)} rows, {number(people.new)} new")
    deeds = import_events(
        database, cdnow.events_csv(count), name="purchases", source=cdnow.SOURCE, secret=secret,
        rejects=rejects, shift_to_today=True,
    )  # fmt: skip
    say(
        f"purchases: {number(deeds.rows)} rows, {number(deeds.new)} new, moved by {number(shift.days)} days"
    )
    return Imported(people.new, deeds.new, shift)


def publish_both(database: Database, say: Callable[[str], None]) -> None:
    """Publish the two sequences that ship, after the same proof that `sequence apply` asks for."""
    import schedules
    from workers.cli.proof import installed_templates, prove

    folder = Path(str(schedules.__file__)).parent / "sequences"
    with database.transaction() as connection:
        topics, samples = topic_keys(connection), sample_subscribers(connection)
    files = [str(folder / f"{key}.yaml") for key in (SHORT, LONG)]
    proof = prove(files, installed_templates(), topics=topics, samples=samples)
    for file in proof.require():
        with database.transaction() as connection:
            done = publish(connection, file.loaded, file.source, file.bundles, file.prompts)
        say(f"sequence {done.key}: version {done.version}")


def enroll(
    database: Database,
    count: int | None,
    shift: dt.timedelta,
    meanwhile: Callable[[], object] = lambda: None,
) -> dict[str, Tally]:
    """Everybody into the short sequence, those who have been quiet into the long one.

    Args:
        database: where to.
        count: how many customers were brought in.
        shift: of their dates.
        meanwhile: called in between: the long one branches on a score, the short one waits.
    """
    tallies = {SHORT: enroll_all(database, SHORT)}
    meanwhile()
    since = dt.datetime.now(dt.UTC).date() - QUIET
    secret = load().key
    quiet = [
        address_hmac(secret, customer.email)
        for customer in cdnow.customers(count)
        if customer.last_purchase + shift < since
    ]
    tally = Tally()
    for start in range(0, len(quiet), BATCH):
        tally = tally.plus(enroll_identities(database, LONG, quiet[start : start + BATCH]))
    tallies[LONG] = tally
    return tallies


def look(database: Database) -> tuple[Overview, bool]:
    """How it stands, and whether nothing more is to be done now.

    Whoever waits for another day, and every doubt that is held, does not keep it from being done.
    """
    with database.snapshot() as connection:
        now = overview(connection)
        awaited = words.awaited(connection)
    busy = now.due + now.later + now.working + now.armed + now.to_plan
    # Between a hand-back and the next scan nothing is due for a moment: people tell.
    under_way = sum(s.active - s.waiting - s.held for s in now.sequences) - now.in_doubt
    short_of = next((s.waiting for s in now.sequences if s.key == SHORT), 0)
    return now, busy == 0 and under_way <= 0 and short_of == 0 and not awaited


def outcomes(database: Database) -> list[dict[str, object]]:
    """Each step with its outcomes counted."""
    with database.transaction() as connection:
        return [dict(row._mapping) for row in connection.execute(STEPS)]


def a_mail(database: Database) -> int:
    """The id of a message that was sent, to be looked at.

    Raises:
        Permanent: none was.
    """
    with database.transaction() as connection:
        found = connection.execute(FIRST_SENT, {"key": SHORT}).scalar_one()
    if found is None:
        raise Permanent("no mail was sent; see the logs named above, and run `dripfleet doctor`")
    return int(found)
