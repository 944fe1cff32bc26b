"""What the rows in Postgres tell of the fleet: who answers, what is late, what waits for a person."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator

from pydantic import ValidationError
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from models.session import Database
from tasks import names
from tasks.errors import Misconfigured
from tasks.moves import quarantine
from tasks.send.compliance import HELD
from tasks.sequence import drain, outbox
from tasks.sequence.outlook import span
from tasks.upkeep import checks
from tasks.upkeep.verify import VerifySettings
from workers.beat import ticks as beat_ticks
from workers.doctor import content, edge, experiments, inbound, relays, segment_runs
from workers.doctor.finding import Finding, error, fine, warning
from workers.doctor.sign_ups import sign_ups
from workers.doctor.signatures import signatures
from workers.doctor.webhooks import endpoints
from workers.doctor.words import texts
from workers.settings import FleetSettings

SILENT = 90.0  # seconds: canaries are asked for every 30 s, where a pool is silent
SKEW = 2.0
OPEN_FOR = 60.0
# Without these nothing is planned, sent or brought back; the others do what a sequence may ask for.
NEEDED = ("sequence", "send", "upkeep")


def look(database: Database) -> Iterator[Finding]:
    """Every check, each in a transaction of its own: one that fails hides nothing of the others."""
    for name, check in (
        ("clock", clock),
        ("worker clocks", worker_clocks),
        ("pools", pools),
        ("ticks", ticks),
        ("due", due),
        ("entries", entries),
        ("paused", paused),
        ("draining", draining),
        ("relays", relays.relays),
        ("doubts", doubts),
        ("quarantine", quarantined),
        ("transactions", transactions),
        ("templates", templates),
        ("signatures", signatures),
        ("schedules", schedules),
        ("segments", segments),
        ("segment runs", segment_runs.runs),
        ("experiments", experiments.standing),
        ("refused events", refused_events),
        ("words", texts),
        ("content", content.jobs),
        ("webhooks", webhooks),
        ("webhook endpoints", endpoints),
        ("hits", edge.hits),
        ("sign-ups", sign_ups),
        ("inbound", inbound.inbound),
    ):
        try:
            with database.transaction() as connection:
                checks.bound(connection)
                found = list(check(connection))
        except Misconfigured as fault:
            found = [error(name, str(fault), "correct that setting")]
        except SQLAlchemyError as fault:
            kind = type(getattr(fault, "orig", fault)).__name__
            found = [error(name, f"cannot be looked at ({kind})", "look into the log of Postgres")]
        yield from found


def clock(connection: Connection, here: Callable[[], float] = time.time) -> Iterator[Finding]:
    """Due times are compared by Postgres's clock, never by ours: so a skew only confuses people."""
    before = here()
    there = checks.now(connection)
    after = here()
    apart = there - (before + after) / 2
    if abs(apart) - (after - before) / 2 > SKEW:
        which = "behind" if apart > 0 else "ahead of"
        yield warning(
            "clock",
            f"this machine is {abs(apart):.1f} s {which} Postgres",
            "let both machines follow NTP; delivery goes by Postgres's clock, logs by this one's",
        )
    else:
        yield fine("clock", "this machine agrees with Postgres")


def worker_clocks(connection: Connection) -> Iterator[Finding]:
    """The same of each worker's machine, as it said with its canary."""
    off = checks.clocks(connection, SKEW)
    for worker, ahead in off.items():
        which = "ahead of" if ahead > 0 else "behind"
        yield warning(
            f"worker {worker}",
            f"its clock is {abs(ahead):.1f} s {which} Postgres",
            "let its machine follow NTP; nothing is sent late or early for it, but its logs mislead",
        )
    if not off:
        yield fine("worker clocks", "every worker agrees with Postgres")


def pools(connection: Connection) -> Iterator[Finding]:
    """Who answered a canary, put through its own queue, lately; regions of streams among them."""
    ago = checks.pools(connection)
    streams = checks.streams(connection)
    regional = {names.queue_of("send", s.region): s.key for s in streams if s.region}
    needed = {*NEEDED, *regional}
    if regional and all(stream.region for stream in streams):
        needed.discard("send")
    if not ago:
        yield warning("pools", "no worker has answered yet", "start them: `dripfleet up`")
        return
    if min(ago.values()) > SILENT:
        yield error(
            "pools",
            f"no worker has answered for {words(min(ago.values()))}",
            "start them (`dripfleet up`); if they run, look whether they reach Redis",
        )
        return
    queues = (*names.POOLS, *sorted(regional))
    for pool in queues:
        tell = error if pool in needed else warning
        if pool not in ago:
            hint = f"start it: `{names.worker_of(pool)}`"
            if stream := regional.get(pool):
                hint += (
                    f"; or take stream {stream} out: `dripfleet stream set {stream} --no-region`"
                )
            yield tell(f"pool {pool}", "never answered", hint)
        elif ago[pool] > SILENT:
            yield tell(
                f"pool {pool}",
                f"has not answered for {words(ago[pool])}",
                f"look into its log, and start it again: `{names.worker_of(pool)}`",
            )
    if all(ago.get(pool, SILENT + 1) <= SILENT for pool in queues):
        yield fine("pools", f"all answered within {SILENT:.0f} s")


def ticks(connection: Connection) -> Iterator[Finding]:
    """What beat should be causing every few seconds."""
    try:
        schedule = beat_ticks(FleetSettings())
    except ValidationError:  # said by the check of the settings
        schedule = {}
    ago = checks.ticks(connection)
    stopped = []
    for name, entry in schedule.items():
        period = entry["schedule"]
        if not isinstance(period, int | float) or name not in ago:
            continue
        # A scan may take its 10 s, and a deep queue of ticks is no stop.
        if ago[name] > max(10 * period, 30.0):
            stopped.append(f"{name} ({words(ago[name])} ago)")
    if stopped:
        yield error(
            "ticks",
            f"stopped: {', '.join(stopped)}",
            "look whether beat, Redis and the pools sequence and upkeep run: `dripfleet status`",
        )
    elif not ago:
        yield warning("ticks", "none was ever done", "start beat: `dripfleet up`, `dripfleet beat`")
    else:
        yield fine("ticks", "all done lately")


def due(connection: Connection) -> Iterator[Finding]:
    """How late due work is, against the promise."""
    slo, late = promised(), False
    for stream in checks.streams(connection):
        if stream.paused_for is None and (stream.oldest_due or 0) > slo:
            late = True
            yield error(
                f"stream {stream.key}",
                f"its oldest due mail waits for {words(stream.oldest_due)}, more than"
                f" {words(slo)} (DRIPFLEET_OVERDUE_SLO)",
                "look whether the send pool answers, and start more of it:"
                f" `{names.worker_of(names.queue_of('send', stream.region))}`",
            )
    waits = checks.to_plan(connection)
    if (waits or 0) > slo:
        late = True
        yield error(
            "planner",
            f"the oldest due enrollment waits for {words(waits)}, more than {words(slo)}",
            "look whether beat and the sequence pool run: `dripfleet status`",
        )
    if not late:
        yield fine("due", f"nothing waits for more than {words(slo)}")


def entries(connection: Connection) -> Iterator[Finding]:
    """Events that somebody listens for, and people who ask to come in, against the same promise."""
    slo = promised()
    news, asking = checks.unheard(connection)
    if (news or 0) > slo:
        yield error(
            "events",
            f"the oldest that a sequence listens for waits for {words(news)}, more than {words(slo)}",
            "look whether beat and the sequence pool run, and for definition_faulty in its log",
        )
    if (asking or 0) > slo:
        yield error(
            "entries",
            f"somebody's turn to come in is due for {words(asking)}, more than {words(slo)}",
            "look whether beat and the sequence pool run: `dripfleet status`",
        )
    if max(news or 0, asking or 0) <= slo:
        yield fine("entries", f"no event and nobody who asks waits for more than {words(slo)}")


def paused(connection: Connection) -> Iterator[Finding]:
    """What somebody, or a relay that refused us, has paused."""
    for stream in checks.streams(connection):
        if stream.paused_for is not None:
            yield warning(
                f"stream {stream.key}",
                f"paused for {words(stream.paused_for)}: {stream.pause_reason}",
                f"`dripfleet stream show {stream.key}`; a send worker that starts with all of it lets it go"
                if (stream.pause_reason or "").startswith(HELD)
                else f"when that is mended: `dripfleet stream resume {stream.key}`",
            )
    for row in checks.paused_sequences(connection):
        yield warning(
            f"sequence {row.key}",
            f"paused for {words(row.paused_for)}: {row.pause_reason}",
            f"when that is mended: `dripfleet sequence resume {row.key}`",
        )


def draining(connection: Connection) -> Iterator[Finding]:
    """Sequences that take nobody new; that is meant, and may be forgotten."""
    for each in drain.draining(connection):
        name, since = f"sequence {each.key}", f"takes nobody new for {span(each.length)}"
        if not each.active:
            yield fine(name, f"{since}, and nobody is under way any more: {each.reason}")
            continue
        yield warning(
            name,
            f"{since} ({each.reason}); {each.active} go on to the end",
            f"leave it so until they have; to let people in again: `dripfleet sequence drain"
            f" {each.key} --undo`",
        )


def doubts(connection: Connection) -> Iterator[Finding]:
    """Mails of which only an operator can say whether they arrived."""
    held = checks.held_doubts(connection)
    for stream, n in held.items():
        some = "at least " if sum(held.values()) >= checks.MOST else ""
        yield warning(
            f"stream {stream}",
            f"{some}{n} mails in doubt wait for an operator",
            f"`dripfleet doubt list --stream {stream}`, then `dripfleet doubt resolve`",
        )
    if not held:
        yield fine("doubts", "none waits for an operator")


def quarantined(connection: Connection) -> Iterator[Finding]:
    """A restored database whose lost future is not settled yet."""
    found = quarantine.standing(connection)
    if found is not None:
        yield warning(
            "quarantine",
            f"stands since {found.begun_at:%Y-%m-%d %H:%M %Z} ({found.reason}): what was due before"
            " is handed off in doubt",
            "`dripfleet quarantine --sink LEDGER`, `dripfleet doubt list`, then `quarantine --lift`",
        )


def transactions(connection: Connection) -> Iterator[Finding]:
    """A transaction that stays open keeps every dead row from being cleaned away."""
    found = checks.open_transactions(connection, OPEN_FOR)
    for each in found:
        yield warning(
            "transactions",
            f"pid {each.pid} ({each.application}, {each.state}) has one open for {words(each.age)}",
            f"end it where it was begun, or: SELECT pg_terminate_backend({each.pid})",
        )
    if not found:
        yield fine("transactions", f"none is open for more than {words(OPEN_FOR)}")


def templates(connection: Connection) -> Iterator[Finding]:
    """Mails that would fail for want of a template."""
    missing = checks.missing_templates(connection)
    for template, who in missing.items():
        yield error(
            f"template {template}",
            f"is not there, and {who} names it",
            "publish the sequence with its templates: `dripfleet sequence apply FILE`",
        )
    if not missing:
        yield fine("templates", "all that are named are there")


def schedules(connection: Connection) -> Iterator[Finding]:
    """Cron lines that cannot start what they name, or were not started."""
    found, bad = checks.schedules(connection), False
    known = {*names.POOL_OF, *getattr(names, "SCHEDULED", ())}
    slo = promised()
    for line in found:
        fault, hint = line.fault, "mend it in cron.yaml, then `dripfleet schedules apply`"
        if fault is None and line.task is not None and line.task not in known:
            fault = f"there is no task {line.task!r}"
        if fault is None and not line.published:
            fault = f"there is no sequence {line.sequence!r}"
            hint = "publish it (`dripfleet sequence apply FILE`), or take the line out"
        if fault is None and not line.paused and (line.overdue or 0) > slo:
            fault = f"it was to fire {words(line.overdue)} ago"
            hint = "look whether beat and the sequence pool run: `dripfleet status`"
        if fault is not None:
            bad = True
            yield error(f"schedule {line.key}", fault, hint)
    if found and not bad:
        yield fine("schedules", f"{len(found)} cron lines are sound")


def segments(connection: Connection) -> Iterator[Finding]:
    """Named segments that fail, or whose time has long come: who is in them is out of date."""
    found, waits = checks.segments(connection)
    slo, bad = promised(), False
    for each in found:
        since = (
            "never evaluated" if each.evaluated is None else f"as of {words(each.evaluated)} ago"
        )
        if each.fault is not None:
            bad = True
            yield error(
                f"segment {each.key}",
                f"failed {each.faults} times ({each.fault}); its members are {since}",
                f"see `dripfleet segment preview {each.key}`, mend its file, `dripfleet segment apply`",
            )
        elif each.overdue > slo:
            bad = True
            yield error(
                f"segment {each.key}",
                f"was to be evaluated {words(each.overdue)} ago; its members are {since}",
                "look whether beat, the sequence and the upkeep pool run: `dripfleet status`",
            )
    if (waits or 0) > slo:
        bad = True
        yield error(
            "segments",
            f"what happened {words(waits)} ago has moved nobody yet",
            "look whether beat, the sequence and the upkeep pool run: `dripfleet status`",
        )
    if found and not bad:
        yield fine("segments", f"{len(found)} are evaluated in time")


def refused_events(connection: Connection) -> Iterator[Finding]:
    """Events that producers sent and that are no row of `event`, since something is wrong with them."""
    for reason, n in checks.refused_events(connection).items():
        yield warning(
            "refused events",
            f"{n} × {reason}",
            "`dripfleet events refused`; mend it where they come from, then `events refused --retry`",
        )


def webhooks(connection: Connection) -> Iterator[Finding]:
    """Calls of steps to a name that is no endpoint's: nobody takes them."""
    for row in outbox.waiting(connection):
        calls = f"{row.n} call{'' if row.n == 1 else 's'}"
        yield warning(
            f"webhooks to {row.target}",
            f"{calls} wait in the outbox, the oldest for {span(row.oldest)}",
            f"name who is called: `dripfleet webhooks add {row.target} https://…`; they are kept till then",
        )


def promised() -> float:
    """How late due work may be, in seconds."""
    try:
        return VerifySettings().overdue_slo
    except ValidationError as fault:
        raise Misconfigured(f"DRIPFLEET_OVERDUE_SLO: {fault.errors()[0]['msg']}") from None


def words(seconds: float | None) -> str:
    """A length of time as people say it."""
    return span(dt.timedelta(seconds=seconds or 0))
