"""The journals of the dead: what a killed worker knew of its dots, brought into the rows.

Taking the journal's lock proves that its owner is dead. Same boot: a dot without a reply is a
doubt, no dot line means not sent. Another boot: replies count, silence proves nothing.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from models.session import Database
from tasks.crashpoint import reached
from tasks.moves import doubt, reap, release
from tasks.moves.cycle import STATEMENTS, Answered, cycle
from tasks.moves.pipeline import Pipeline
from tasks.moves.settings import DeliverySettings
from tasks.send.journal import AbandonedJournal, abandoned
from tasks.send.seen import identity

log = structlog.get_logger()


def replay_all(database: Database, folder: Path, settings: DeliverySettings) -> int:
    """Replay every journal in `folder` whose owner is dead; returns how many there were.

    A journal is unlinked only after its last row is written; a replay that dies is begun again.
    """
    count = 0
    here = identity(database)
    for journal in abandoned(folder):
        owner = str(journal.owner)
        if journal.database not in ("", here):
            log.warning("journal_of_another_database", owner=owner, path=journal.path.name)
            continue
        try:
            told = replay(database, journal, settings)
        except Exception:  # one file must not keep every send worker of this machine down
            log.exception("journal_not_replayed", owner=owner, path=journal.path.name)
            continue
        reached("replay.written")
        journal.discard()
        log.info("journal_replayed", owner=owner, **told)
        count += 1
    return count


def replay(
    database: Database, journal: AbandonedJournal, settings: DeliverySettings
) -> dict[str, int]:
    """Bring one dead owner's rows to where they belong; returns counts."""
    owner = str(journal.owner)
    # First what was being worked on: the row locks settle a last statement still in flight.
    with database.transaction() as connection:
        released = reap.release_owner(connection, owner, settings)
    reached("replay.released")
    with database.transaction() as connection:
        held = reap.held_by(connection, owner)
    answered: list[Answered] = []
    not_sent: list[release.Returned] = []
    doubted: list[doubt.Doubted] = []
    for row_id, epoch, state, enrollment_id, armed_at, sha256 in held:
        effect = (row_id, epoch)
        if effect in journal.replies:
            code, enhanced, text = journal.replies[effect]
            answered.append(
                Answered(row_id, epoch, enrollment_id, armed_at, sha256, code, enhanced, text)
            )
        elif journal.silence_counts and effect not in journal.dots:
            not_sent.append(release.Returned(row_id, epoch, "not_sent", 0.0, "arm"))
        elif state == "armed":
            doubted.append(doubt.Doubted(row_id, epoch, "worker_died"))
    if answered:
        asyncio.run(_record(database, answered, owner, settings))
    if not_sent:
        with database.transaction() as connection:
            release.give_back(connection, not_sent, owner, settings)
    if doubted:
        with database.transaction() as connection:
            doubt.doubt(connection, doubted, owner, settings)
    return {
        "released": released,
        "answered": len(answered),
        "not_sent": len(not_sent),
        "in_doubt": len(doubted),
    }


async def _record(
    database: Database, answered: list[Answered], owner: str, settings: DeliverySettings
) -> None:
    pipeline = Pipeline(database.raw(), STATEMENTS)
    try:
        while answered:
            # A message that was tried twice has two replies; RECORD takes one of them at a time.
            group = list({each.id: each for each in reversed(answered[:500])}.values())
            taken = {(each.id, each.epoch) for each in group}
            answered = [each for each in answered if (each.id, each.epoch) not in taken]
            await cycle(pipeline, group, [], owner=owner, settings=settings, evidence="journal")
    finally:
        pipeline.close()
