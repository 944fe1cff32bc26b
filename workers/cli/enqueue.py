"""`dripfleet enqueue`: people enter a sequence, everybody, those of a list, or those of a segment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import typer

from workers.cli.context import connected
from workers.cli.render import ExitCode, emit, number, plain, progress, say
from workers.cli.subscribers import beside, opened, position, tell_rejects

if TYPE_CHECKING:
    from models.session import Database
    from schedules.expression import Expression
    from tasks.audience.rejects import Rejects
    from tasks.sequence.enroll import Tally

LONGEST_LINE = 4096
UNKNOWN = "no subscriber has this address"


def register(app: typer.Typer) -> None:
    """Add `dripfleet enqueue`."""
    app.command(
        epilog="Examples:\n\ndripfleet enqueue thank-you --all --dry-run\n\n"
        "dripfleet enqueue thank-you --all\n\n"
        "dripfleet enqueue win-back --emails people.txt\n\n"
        "dripfleet enqueue win-back --segment \"sub.country in ['DE', 'AT'] and"
        " count('purchase', within='90d') == 0\" --dry-run\n\n"
        "dripfleet enqueue win-back --segment lapsed",
    )(enqueue)


def enqueue(
    sequence: str = typer.Argument(help="Key of a published sequence."),
    emails: str | None = typer.Option(
        None, help="A file with one address a line (# begins a comment), or - for stdin."
    ),
    everybody: bool = typer.Option(False, "--all", help="Every subscriber."),
    segment: str | None = typer.Option(
        None,
        metavar="EXPR|KEY",
        help="Those of whom this condition holds, such as \"sub.country == 'DE'\", or who are in the"
        " named segment of that key; who needs a score that is missing or too old to tell is left out.",
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would happen, write nothing."),
    rejects: Path | None = typer.Option(
        None, help="Where lines that nobody entered by go; by default FILE.rejects.csv."
    ),
    as_json: bool = typer.Option(False, "--json", help="Summary as JSON."),
) -> None:
    """Bring people into a sequence, each once, and say how many did not come in and why.

    Who is in it, or was, is left alone, so the same command can be run again, also after Ctrl-C.
    Stopped and suppressed subscribers do not enter, nor who opted out of its topic, and nobody enters a
    paused sequence. Where a sequence drains, each is refused and counted, and the exit code is 3.
    """
    if [everybody, emails is not None, segment is not None].count(True) != 1:
        raise typer.BadParameter("expected one of --emails FILE or --all or --segment EXPR")
    from tasks.sequence.enroll import Tally, enroll_all, enroll_selected, require_open

    condition = None if segment is None else _condition(segment)

    so_far = Tally()
    extra: dict[str, int] = {}
    with connected() as services, progress("counting" if dry_run else "enrolling") as bar:
        with services.database.snapshot() as connection:
            draining = require_open(connection, sequence).draining_since is not None
        try:
            if emails is None:

                def on_batch(tally: Tally, done: int, total: int) -> None:
                    nonlocal so_far
                    so_far = tally
                    bar.show(done, total, f"{number(tally.looked_at)} looked at")

                if condition is None:
                    so_far = enroll_all(
                        services.database, sequence, dry_run=dry_run, on_batch=on_batch
                    )
                else:
                    so_far = enroll_selected(
                        services.database,
                        sequence,
                        *_predicate(services.database, condition),
                        dry_run=dry_run,
                        on_batch=on_batch,
                    )
            else:
                with opened(emails) as (source, _):
                    where = None if dry_run else rejects or beside(emails)
                    listed = _List(services.database, sequence, source, where, dry_run)
                    try:
                        for tally in listed.enroll():
                            so_far = tally
                            bar.show(*position(source), f"{number(tally.looked_at)} looked at")
                    finally:
                        listed.rejects.close()
                extra = {"invalid_lines": listed.invalid, "repeated": listed.repeated}
        except KeyboardInterrupt:
            say(f"stopped after {number(so_far.enrolled)} entries; run it again to go on")
            raise
    if emails is not None:
        tell_rejects(listed.rejects.reasons, listed.rejects.first, listed.rejects.path)
    data = {k: v for k, v in plain(so_far).items() if k != "unknown_at"} | extra
    if not so_far.refused and not so_far.waiting:
        # Of a sequence whose entry has no rules there is nothing to tell.
        del data["refused"], data["waiting"]
    elif dry_run and not draining:
        say("its entry has rules: 'waiting' are those whom they would judge")
    elif not dry_run:
        say(f"`dripfleet sequence door {sequence}` shows who waits, and why others did not come in")
    title = "what would happen" if dry_run else None
    emit({"sequence": sequence, **data, "dry_run": dry_run}, title=title, as_json=as_json)
    if draining:
        say(
            f"sequence {sequence!r} takes nobody new, so whoever would come in is refused;"
            f" `dripfleet sequence drain {sequence} --undo` lets people in again",
            style="yellow",
        )
        raise typer.Exit(ExitCode.FINDINGS)


def _condition(text: str) -> Expression:
    from schedules.expression import ExpressionError, read
    from schedules.segment import as_condition

    try:
        return read(as_condition(text))
    except ExpressionError as error:
        raise typer.BadParameter(
            f"at character {error.at + 1}: {error}", param_hint="--segment"
        ) from error


def _predicate(database: Database, condition: Expression) -> tuple[str, dict[str, Any]]:
    """The condition as SQL, once its topics and segments are known to be there."""
    from tasks.membership import segment_keys
    from tasks.segments import segment_sql
    from tasks.sequence.publish import topic_keys

    with database.snapshot() as connection:
        if unknown := sorted(condition.needs.topics - topic_keys(connection)):
            raise typer.BadParameter(
                f"topic {unknown[0]!r} does not exist: expected one that subscribers can opt in to;"
                " correct the name",
                param_hint="--segment",
            )
        if unknown := sorted(condition.needs.memberships - segment_keys(connection)):
            raise typer.BadParameter(
                f"segment {unknown[0]!r} does not exist: expected one that `dripfleet segment list`"
                " names; correct the name, or apply its file",
                param_hint="--segment",
            )
    return segment_sql(condition)


class _List:
    """A file of addresses on its way into a sequence, batch by batch."""

    def __init__(
        self,
        database: Database,
        key: str,
        source: BinaryIO,
        rejects_path: Path | None,
        dry_run: bool,
    ) -> None:
        from tasks.audience.rejects import Rejects
        from tasks.audience.seen import Seen

        self.rejects: Rejects = Rejects(rejects_path)
        self.invalid = 0
        self.repeated = 0
        self._database = database
        self._key = key
        self._source = source
        self._dry_run = dry_run
        self._seen = Seen()

    def enroll(self) -> Iterator[Tally]:
        """Enroll everybody in it; yields the tally so far, after each batch."""
        from tasks.audience.settings import load
        from tasks.audience.store import check_secret
        from tasks.sequence.enroll import BATCH, Tally, enroll_identities

        secret = load().key
        with self._database.snapshot() as connection:
            # Under another secret all of them would be unknown, which is not what is wrong.
            check_secret(connection, secret)
        tally = Tally()
        batch: list[tuple[bytes, int, str]] = []

        def flush() -> Tally:
            one = enroll_identities(
                self._database, self._key, [each[0] for each in batch], dry_run=self._dry_run
            )
            for at in one.unknown_at:
                self.rejects.add(batch[at][1], UNKNOWN, batch[at][2])
            batch.clear()
            return tally.plus(one)

        for identity, line, raw in self._identities(secret):
            batch.append((identity, line, raw))
            if len(batch) == BATCH:
                tally = flush()
                yield tally
        if batch:
            tally = flush()
        yield tally

    def _identities(self, secret: bytes) -> Iterator[tuple[bytes, int, str]]:
        from tasks.audience.address import RefusedAddress, address_hmac, parse

        line = 0
        for raw in iter(lambda: self._source.readline(LONGEST_LINE), b""):
            line += 1
            while len(raw) == LONGEST_LINE and not raw.endswith(b"\n"):
                # No address is that long: the rest of it is walked over in little memory.
                rest = self._source.readline(LONGEST_LINE)
                if len(rest) < LONGEST_LINE or rest.endswith(b"\n"):
                    break
            text = raw.decode("utf-8-sig" if line == 1 else "utf-8", "replace").strip()
            if not text or text.startswith("#"):
                continue
            try:
                identity = address_hmac(secret, parse(text))
            except RefusedAddress as fault:
                self.invalid += 1
                self.rejects.add(line, str(fault), text[:320])
                continue
            if self._seen.add(identity):
                self.repeated += 1
                continue
            yield identity, line, text
