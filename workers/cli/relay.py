"""`dripfleet relay`: how fast the domains behind a relay are mailed, and why not faster."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Any

import typer

from workers.cli.context import Services, connected
from workers.cli.render import emit, say

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tasks.send.buckets import Pacing
    from tasks.send.limits import Allowed, WarmUp

relay = typer.Typer(
    no_args_is_help=True,
    help="Look at relays, limit and warm up the domains behind them, pause and resume them.",
)

RELAY = typer.Argument(
    help="Name of a relay: `default`, or NAME of DRIPFLEET_SMTP_URL_NAME in small letters."
)
DOMAINS = typer.Option(
    "*",
    "--domains",
    help="A group (gmail, microsoft, yahoo, icloud, …) or a domain; *: each that has no limit of its"
    " own.",
)
_NAME = re.compile(r"[a-z0-9_]{1,60}", re.ASCII)
_DOMAINS = re.compile(r"\*|[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
_EVERY = re.compile(r"(\d{1,3})([dw])", re.ASCII)


def register(app: typer.Typer) -> None:
    """Add `dripfleet relay`."""
    app.add_typer(relay, name="relay")


@relay.command("list", epilog="Examples:\n\ndripfleet relay list\n\ndripfleet relay list --json")
def list_(as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too.")) -> None:
    """List relays: who sends through them, their limits, and at which rate each group is mailed now.

    A row a relay and group of domains. `rate` is mails a minute now, below the `ceiling` where the
    group's own answers have lowered it; `resting_s` how long it rests still after such an answer.
    """
    from sqlalchemy import text

    from tasks.send import limits, route

    with connected(redis=True) as services:
        with services.database.snapshot() as connection:
            allowed = limits.load(connection)
            taken = limits.taken_today(connection)
            streams = connection.execute(text("SELECT key, relay FROM stream ORDER BY key")).all()
            today = connection.execute(
                text("SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date")
            ).scalar_one()
        users: dict[str, list[str]] = {}
        for row in streams:
            for name in route.names(row.relay):
                users.setdefault(name, []).append(row.key)
        names = sorted({*users, *allowed})
        paces = _paces(services, names)
    rows: list[dict[str, Any]] = []
    for name in names:
        rows += _rows(
            name,
            ", ".join(users.get(name, [])),
            allowed.get(name) or limits.NOTHING,
            paces.get(name, []),
            {domains: n for (key, domains), n in taken.items() if key == name},
            today,
        )
    emit(rows, title="Relays", as_json=as_json)


@relay.command(
    epilog="Examples:\n\ndripfleet relay limit default --per-minute 3000\n\n"
    "dripfleet relay limit default --domains gmail --per-minute 600 --connections 8\n\n"
    "dripfleet relay limit default --domains gmail --clear"
)
def limit(
    key: str = RELAY,
    domains: str = DOMAINS,
    per_minute: float | None = typer.Option(
        None, min=0.01, max=10_000_000, help="Mails a minute at most, all workers together."
    ),
    connections: int | None = typer.Option(
        None, min=1, max=2000, help="Mails under way at once at most, all workers together."
    ),
    clear: bool = typer.Option(False, "--clear", help="Take the limits and the warm-up off."),
) -> None:
    """Limit how fast a group of domains is mailed through a relay; it holds within seconds.

    Beneath its ceiling a rate finds its own way: it begins at an eighth, doubles every half minute,
    is halved when the domain says "slow down" (421, 450 or 451 4.7.x), and grows by a twentieth of
    the ceiling a minute after that. What goes beyond it waits in its row, and is no attempt.
    """
    from tasks.moves.put_off import call_back
    from tasks.send import limits

    group = _checked(key, domains)
    if clear == (per_minute is not None or connections is not None):
        raise typer.BadParameter("expected --per-minute, --connections or both; or --clear")
    with connected() as services, services.database.transaction() as connection:
        _told_if_unused(connection, key)
        if clear:
            done = limits.clear_limit(connection, key, group)
            say(f"relay {key}, {group}: {'nothing limits it' if done else 'had no limit'}")
        else:
            limits.set_limit(connection, key, group, per_minute=per_minute, connections=connections)
            said = [
                f"{per_minute:g} a minute" if per_minute is not None else "",
                f"{connections} at once" if connections is not None else "",
            ]
            say(f"relay {key}, {group}: {' and '.join(filter(None, said))} at most")
        _called(call_back(connection, key, limits.READ_EVERY + 1))


@relay.command(
    epilog="Examples:\n\ndripfleet relay warmup default --from 50 --double-every 2d --until 100000\n\n"
    "dripfleet relay warmup default --domains gmail --from 100 --double-every 1d --until 20000\n\n"
    "dripfleet relay warmup default --end"
)
def warmup(
    key: str = RELAY,
    domains: str = DOMAINS,
    first: int | None = typer.Option(None, "--from", min=1, help="Mails on the first day, today."),
    double_every: str = typer.Option("2d", help="1d, 2d, 1w: after that the day's number doubles."),
    until: int = typer.Option(100_000, min=1, help="At so many a day the warm-up is over."),
    end: bool = typer.Option(False, "--end", help="End it now."),
) -> None:
    """Warm up a relay: so many mails a day (of UTC), more each day; the others wait for tomorrow.

    With `*` all domains without a row of their own share the day's number. It is counted in
    Postgres, over all workers, before the mails go.
    """
    from tasks.moves.put_off import call_back
    from tasks.send import limits

    group = _checked(key, domains)
    if (first is None) != end:
        raise typer.BadParameter("expected --from N, or --end")
    found = _EVERY.fullmatch(double_every)
    if found is None or int(found[1]) == 0:
        raise typer.BadParameter(
            f"{double_every[:20]!r} is no number of days or weeks: expected such as 2d or 1w",
            param_hint="--double-every",
        )
    if first is not None and until < first:
        raise typer.BadParameter(f"expected --until to be {first} or more", param_hint="--until")
    every = dt.timedelta(days=int(found[1]) * (7 if found[2] == "w" else 1))
    with connected() as services, services.database.transaction() as connection:
        _told_if_unused(connection, key)
        if first is None:
            done = limits.end_warm_up(connection, key, group)
            say(f"relay {key}, {group}: {'the warm-up is over' if done else 'had no warm-up'}")
        else:
            limits.warm_up(connection, key, group, first, every, until)
            plan = limits.WarmUp(first, every, until, dt.date(2000, 1, 1))
            say(f"relay {key}, {group}: {_days(plan)}")
        _called(call_back(connection, key, limits.READ_EVERY + 1))


@relay.command(epilog='Examples:\n\ndripfleet relay pause default --reason "their incident"')
def pause(
    key: str = RELAY,
    reason: str = typer.Option(help="Why; shown wherever somebody wonders."),
) -> None:
    """Hand a relay nothing more; streams that name another one beside it go on by that."""
    from tasks.send import limits

    _checked(key, "*")
    with connected() as services, services.database.transaction() as connection:
        _told_if_unused(connection, key)
        done = limits.pause(connection, key, reason)
    say(f"relay {key}: {'paused' if done else 'was paused already'}")


@relay.command(epilog="Examples:\n\ndripfleet relay resume default")
def resume(key: str = RELAY) -> None:
    """Let a paused relay go on."""
    from tasks.moves.put_off import call_back
    from tasks.send import limits

    _checked(key, "*")
    with connected() as services, services.database.transaction() as connection:
        done = limits.resume(connection, key)
        say(f"relay {key}: {'goes on' if done else 'was not paused'}")
        _called(call_back(connection, key, limits.READ_EVERY + 1))


def _rows(
    name: str,
    streams: str,
    allowed: Allowed,
    paces: list[Pacing],
    taken: dict[str, int],
    today: dt.date,
) -> list[dict[str, Any]]:
    """A row a group: those with a limit, then those that are mailed by the limit of each."""
    standing = {each.group: each for each in paces}
    groups = [*allowed.limits, *(group for group in standing if group not in allowed.limits)]
    rows = []
    for group in groups or [""]:
        limit, pace = allowed.of(group), standing.get(group)
        own = allowed.limits.get(group)
        warm_up = own.warm_up if own is not None else None
        cap = warm_up.cap(today) if warm_up is not None else None
        rows.append(
            {
                "relay": name,
                "streams": streams,
                "paused": allowed.paused,
                "domains": group,
                "rate": round(pace.rate, 1) if pace is not None and pace.ceiling else None,
                "ceiling": limit.per_minute if limit is not None else None,
                "connections": limit.connections if limit is not None else None,
                "resting_s": round(pace.resting) if pace is not None and pace.resting else None,
                "slowed": pace.cuts if pace is not None else None,
                "today": f"{taken.get(group, 0)} of {cap}" if cap is not None else None,
            }
        )
    return rows


def _paces(services: Services, names: list[str]) -> dict[str, list[Pacing]]:
    """How the groups stand; nothing, and a sentence, where Redis does not answer."""
    from redis.exceptions import RedisError

    from tasks.send.buckets import standing
    from workers.broker import client

    assert services.redis_url is not None
    try:
        with client(services.redis_url) as asked:
            return {name: standing(asked, name) for name in names}
    except (RedisError, OSError) as fault:
        say(
            f"Redis does not answer ({type(fault).__name__}), so no rate is known, and domains with a"
            " limit get nothing",
            style="yellow",
        )
        return {}


def _checked(key: str, domains: str) -> str:
    """The group that is meant, in small letters."""
    if not _NAME.fullmatch(key):
        raise typer.BadParameter(
            f"{key[:64]!r} is no relay's name: expected `default`, or NAME of DRIPFLEET_SMTP_URL_NAME"
            " in small letters"
        )
    group = domains.strip().lower()
    if not _DOMAINS.fullmatch(group):
        raise typer.BadParameter(
            f"{domains[:64]!r} is no group of domains: expected such as gmail, a domain, or *",
            param_hint="--domains",
        )
    from tasks.send.domains import known

    meant = known(group) if group != "*" else group
    if meant is not None and meant != group:
        say(f"{group} belongs to the group {meant}, whose limit this is")
        return meant
    return group


def _told_if_unused(connection: Connection, key: str) -> None:
    """Say so where no stream names this relay: it may be a slip."""
    from sqlalchemy import text

    from tasks.send import route

    rows = connection.execute(text("SELECT DISTINCT relay FROM stream")).scalars()
    named = sorted({name for each in rows for name in route.names(each)})
    if key not in named:
        say(f"no stream names the relay {key}; they name {', '.join(named)}", style="yellow")


def _days(plan: WarmUp) -> str:
    """The first days of a warm-up, in words."""
    caps: list[str] = []
    day = plan.since
    while (cap := plan.cap(day)) is not None and len(caps) < 5:
        caps.append(f"{cap}")
        day += plan.every
    every = plan.every.days
    days = "each day" if every == 1 else f"every {every} days"
    return f"{', '.join(caps)}{', …' if len(caps) == 5 else ''} a day, twice as many {days}, until {plan.until}"


def _called(n: int) -> None:
    if n:
        say(f"{n} mails that were put off are due in a few seconds")
