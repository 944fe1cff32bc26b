"""`dripfleet sequence simulate`: a sequence on a virtual clock, before anybody is mailed."""

from __future__ import annotations

import datetime as dt
import difflib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from workers.cli.render import ExitCode, emit, number, say

if TYPE_CHECKING:
    from schedules.definition import Sequence
    from tasks.sequence.behavior import Person
    from tasks.sequence.simulate import Beside, Pause, Story

BARS = " ▁▂▃▄▅▆▇█"
MONDAY = "2026-01-05"


def register(sequence: typer.Typer) -> None:
    """Add `simulate` to the commands of `dripfleet sequence`."""
    sequence.command(
        epilog="Examples:\n\ndripfleet sequence simulate winback.yaml --subscribers 10000 --days 60\n\n"
        "dripfleet sequence simulate winback.yaml --subscribers people.csv --open 0.4 --click 0.1"
        " --convert purchase=0.03\n\n"
        "dripfleet sequence simulate winback.yaml --beside new.yaml@3d --pause 2d+12h\n\n"
        "dripfleet sequence simulate winback.yaml --seed 7 --over 2d --json",
    )(simulate)


def simulate(
    file: str = typer.Argument(help="A sequence file."),
    subscribers: str = typer.Option(
        "1000",
        "--subscribers",
        metavar="N|FILE",
        help="How many made-up people, or a CSV as `subscribers import` takes it; a column"
        " score:NAME:number gives a score.",
    ),
    days: int = typer.Option(60, min=1, max=3650, help="How long to look."),
    seed: int = typer.Option(1, help="The same seed tells the same story."),
    start: str = typer.Option(
        MONDAY, help="When the first one enters: a date, or an instant (UTC)."
    ),
    over: str = typer.Option(
        "", help="People enter evenly over this time, such as 2d; else at once."
    ),
    opens: float = typer.Option(0.0, "--open", min=0, max=1, help="Chance that a mail is opened."),
    clicks: float = typer.Option(0.0, "--click", min=0, max=1, help="That it is clicked."),
    convert: list[str] = typer.Option(
        [], "--convert", metavar="EVENT=CHANCE", help="That it is followed by an event; repeatable."
    ),
    stops: float = typer.Option(0.0, "--stop", min=0, max=1, help="That its reader unsubscribes."),
    fails: float = typer.Option(0.0, "--fail", min=0, max=1, help="That the relay refuses it."),
    bounces: float = typer.Option(
        0.0, "--bounce", min=0, max=1, help="That its address does not exist."
    ),
    beside: list[str] = typer.Option(
        [],
        metavar="FILE[@AFTER]",
        help="Another sequence that the same people enter, AFTER later: its mails count for the same"
        " caps, and priorities say who comes first; repeatable.",
    ),
    pause: list[str] = typer.Option(
        [],
        metavar="[KEY=]AFTER+LENGTH",
        help="A pause of FILE, or of the sequence KEY, such as 2d+12h; repeatable.",
    ),
    pause_stream: list[str] = typer.Option(
        [],
        metavar="[STREAM=]AFTER+LENGTH",
        help="A pause of the stream that mails FILE, or of another one; repeatable.",
    ),
    golden: Path | None = typer.Option(
        None, help="Compare with this output of --json; exit 3 and a diff where it differs."
    ),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> None:
    """Walk people through a sequence on a virtual clock: the planner's own rules, no mail, no server.

    Shows what happens at each step and when, what the gates refuse or put off, who ends how, and how
    many mails each hour brings. What people do is what the options declare, within 24 hours of a mail.
    Who was stopped does not enter what stands beside it.
    """
    from schedules.durations import parse_duration
    from schedules.loader import load
    from tasks.sequence.behavior import Behavior
    from tasks.sequence.simulate import simulate as walk

    sequence = load(file)
    behavior = Behavior(opens, clicks, _conversions(convert), stops, fails, bounces)
    try:
        spread = parse_duration(over) if over else dt.timedelta()
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--over") from error
    rivals = [_beside(each) for each in beside]
    keys = [sequence.key, *(rival.sequence.key for rival in rivals)]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise typer.BadParameter(
            f"two files have the key {sorted(twice)[0]!r}: expected each sequence once",
            param_hint="--beside",
        )
    pauses = [_pause(each, keys, "--pause") for each in pause]
    streams = [sequence.class_, *(s for s in STREAMS if s != sequence.class_)]
    pauses += [_pause(each, streams, "--pause-stream") for each in pause_stream]
    people = _people(subscribers, [sequence, *(rival.sequence for rival in rivals)], seed)
    story = walk(
        sequence,
        people,
        start=_instant(start),
        days=days,
        seed=seed,
        behavior=behavior,
        over=spread,
        beside=rivals,
        pauses=pauses,
    )
    told = as_data(story, seed)
    if golden is not None:
        _compare(told, golden)
    elif as_json or not sys.stdout.isatty():
        emit(told, as_json=True)
    else:
        show(story)


def as_data(story: Story, seed: int) -> dict[str, Any]:
    """Return a story as JSON has it; equal for equal stories."""
    return {
        "sequence": story.key,
        "seed": seed,
        "start": story.start.isoformat(),
        "until": story.until.isoformat(),
        "entered": story.entered,
        "ended": dict(sorted(story.ended.items())),
        "under_way": story.standing,
        "sent": len(story.sent),
        "steps": [
            {
                "id": step.id,
                "begun": step.begun,
                "mails": dict(sorted(step.mails.items())),
                "reasons": dict(sorted(step.reasons.items())),
                "left": dict(sorted(step.left.items())),
                "under_way": step.standing,
                **({"arms": dict(sorted(step.arms.items()))} if step.arms else {}),
                "hours_after_entry": None if step.after is None
                else [round(span.total_seconds() / 3600, 2) for span in step.after],
            }
            for step in story.steps
        ],
        "sent_per_hour": {at.isoformat(): n for at, n in sorted(story.hours.items())},
    } | _rivals(story, seed)  # fmt: skip


def _rivals(story: Story, seed: int) -> dict[str, Any]:
    """What is told only where pauses were declared, or sequences given beside it."""
    told: dict[str, Any] = {}
    if story.paused:
        told["paused"] = [[begin.isoformat(), end.isoformat()] for begin, end in story.paused]
    if story.beside:
        told["beside"] = [as_data(rival, seed) for rival in story.beside]
    return told


def show(story: Story) -> None:
    """Print a story: a line of totals, the steps in a table, and a chart of hours."""
    ended = ", ".join(f"{number(n)} {reason}" for reason, n in story.ended.most_common())
    typer.echo(
        f"{story.key}: {number(story.entered)} entered, {number(len(story.sent))} mails sent;"
        f" ended: {ended or 'nobody'}; {number(story.standing)} still under way"
    )
    rows = [
        {
            "step": step.id,
            "begun": step.begun,
            "after entry": "" if step.after is None else " · ".join(_span(s) for s in step.after),
            "mails": _counted(step.mails),
            "gates": _counted(step.reasons),
            "left": _counted(step.left),
            **({"arms": _counted(step.arms)} if any(s.arms for s in story.steps) else {}),
            "there": step.standing,
        }
        for step in story.steps
    ]
    emit(rows)
    for begin, end in story.paused:
        typer.echo(f"stood still from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC")
    for line in chart(story):
        typer.echo(line)
    for rival in story.beside:
        typer.echo("")
        show(rival)


def chart(story: Story) -> list[str]:
    """Return a line a day on which mail was sent: a bar an hour (UTC), and the day's mails."""
    if not story.hours:
        return ["no mail was sent"]
    most = max(story.hours.values())
    days: dict[dt.date, list[int]] = {}
    for at, n in story.hours.items():
        days.setdefault(at.date(), [0] * 24)[at.hour] = n
    lines = [
        f"mails an hour (UTC), the highest bar is {number(most)}",
        f"{'':10}  00    06    12    18",
    ]
    for day, hours in sorted(days.items()):
        bars = "".join(BARS[-(-n * (len(BARS) - 1) // most)] for n in hours)
        lines.append(f"{day}  {bars}  {number(sum(hours))}")
    return lines


def _compare(told: dict[str, Any], golden: Path) -> None:
    try:
        kept = golden.read_text("utf-8")
    except OSError as error:
        raise typer.BadParameter(
            f"{golden} cannot be read ({error.strerror}): expected the output of this command with"
            " --json; make it with `> FILE`",
            param_hint="--golden",
        ) from error
    new = json.dumps(told, ensure_ascii=False, indent=2) + "\n"
    lines = list(
        difflib.unified_diff(
            kept.splitlines(keepends=True), new.splitlines(keepends=True), str(golden), "simulated"
        )
    )
    if lines:
        sys.stdout.write("".join(lines))
        say(f"the simulation tells another story than {golden}")
        raise typer.Exit(ExitCode.FINDINGS)
    say(f"the simulation tells the story of {golden}")


STREAMS: Final = ("marketing", "transactional")


def _beside(text: str) -> Beside:
    """Read ``weekly.yaml`` or ``weekly.yaml@3d``."""
    from schedules.durations import parse_duration
    from schedules.loader import load
    from tasks.sequence.simulate import Beside

    file, mark, after = text.rpartition("@")
    if not mark:
        return Beside(load(text))
    try:
        return Beside(load(file), parse_duration(after))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--beside") from error


def _pause(text: str, names: list[str], option: str) -> Pause:
    """Read ``2d+12h`` or ``weekly=2d+12h``: a pause of the first of `names`, or of the one it says."""
    from schedules.durations import parse_duration
    from schedules.reading import suggest
    from tasks.sequence.simulate import Pause

    name, _, told = text.rpartition("=")
    after, _, length = told.partition("+")
    if name and name not in names:
        move = suggest(name, names) or f"write one of {', '.join(names)}"
        raise typer.BadParameter(f"nothing here is called {name!r}; {move}", param_hint=option)
    try:
        begin = dt.timedelta() if after in ("0", "0s") else parse_duration(after)
        lasts = parse_duration(length)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r}: expected when it begins and how long it takes, such as 2d+12h",
            param_hint=option,
        ) from error
    name = name or names[0]
    if option == "--pause":
        return Pause(begin, lasts, sequence=name)
    return Pause(begin, lasts, stream=name)


def _people(asked: str, sequences: list[Sequence], seed: int) -> list[Person]:
    from tasks.sequence.behavior import made_up

    if asked.isdecimal() and asked.isascii():
        count = int(asked)
        if not 1 <= count <= 1_000_000:
            raise typer.BadParameter("expected 1 to 1000000 people", param_hint="--subscribers")
        scores = {name for each in sequences for name, _ in each.needs.scores}
        return made_up(count, seed, frozenset(scores))
    return _people_of(Path(asked))


def _people_of(path: Path) -> list[Person]:
    """Read people as `subscribers import` would; a bad row is told and left out."""
    from tasks.audience.candidate import BadRow, Interpreter
    from tasks.audience.csvfile import CsvFile
    from tasks.sequence.behavior import Person

    try:
        source = path.open("rb")
    except OSError as error:
        raise typer.BadParameter(
            f"{path} cannot be read ({error.strerror}): expected a number, or a CSV of people",
            param_hint="--subscribers",
        ) from error
    with source:
        file = CsvFile(source, str(path), ("email",))
        interpreter = Interpreter(file.columns, b"simulated")
        people: list[Person] = []
        for row in file:
            try:
                found = interpreter.read(row)
            except BadRow as fault:
                say(f"{path}:{row.line}: left out: {fault}", style="yellow")
                continue
            scores = {
                name.removeprefix("score:"): float(value)
                for name, value in found.attributes.items()
                if name.startswith("score:") and isinstance(value, int | float)
            }
            about: dict[str, Any] = {
                name: value
                for name, value in found.attributes.items()
                if name.removeprefix("score:") not in scores
            }
            about |= {
                "first_name": found.first_name, "locale": found.locale, "zone": found.zone,
                "external_id": found.external_id, "status": "subscribed",
            }  # fmt: skip
            people.append(Person(len(people) + 1, found.zone, about, found.topics, scores))
        file.detach()
    if not people:
        raise typer.BadParameter(f"{path} has nobody in it", param_hint="--subscribers")
    return people


def _conversions(asked: list[str]) -> dict[str, float]:
    found = {}
    for each in asked:
        event, _, chance = each.rpartition("=")
        try:
            found[event] = float(chance)
        except ValueError:
            found[event] = -1.0
        if not event or not 0 <= found[event] <= 1:
            raise typer.BadParameter(
                f"{each!r}: expected an event and a chance from 0 to 1, such as purchase=0.03",
                param_hint="--convert",
            )
    return found


def _instant(text: str) -> dt.datetime:
    try:
        at = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r}: expected a date or an instant such as 2026-03-07T12:00Z",
            param_hint="--start",
        ) from error
    return at.replace(tzinfo=dt.UTC) if at.tzinfo is None else at.astimezone(dt.UTC)


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{number(n)} {what.replace('_', ' ')}" for what, n in sorted(counts.items()))


def _span(span: dt.timedelta) -> str:
    hours = span.total_seconds() / 3600
    return f"{hours / 24:.1f} d" if hours >= 24 else f"{hours:.1f} h"
