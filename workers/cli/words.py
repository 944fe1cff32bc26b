"""`dripfleet words` and `dripfleet model-server`: what a model writes, what it costs, and a stand-in."""

from __future__ import annotations

import typer

from workers.cli.context import connected
from workers.cli.render import emit, plain, say

words = typer.Typer(no_args_is_help=True, help="The words that a model writes for mails.")


def register(app: typer.Typer) -> None:
    """Add `dripfleet words` and `dripfleet model-server`."""
    app.add_typer(words, name="words")
    app.command(
        "model-server",
        epilog="Examples:\n\ndripfleet model-server --port 8000\n\n"
        "dripfleet model-server --latency 2 --fail 429:0.1,500:0.05 --garbage 0.1",
    )(model_server)


@words.command(
    epilog="Examples:\n\ndripfleet words report\n\ndripfleet words report win-back --json"
)
def report(
    sequence: str | None = typer.Argument(None, help="Only this sequence's."),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> None:
    """Show cost per thousand, cache hits, fallbacks, latency and what batches saved, a line a sequence."""
    from tasks.personalize import report as reports
    from tasks.personalize.settings import ModelSettings

    settings = ModelSettings()
    with connected() as services, services.database.snapshot() as connection:
        lines = reports.report(connection, sequence)
        spent = reports.spent_today(connection)
    emit([plain(line) for line in lines], title="Words", as_json=as_json)
    for scope, (reserved, settled) in sorted(spent.items()):
        budget = settings.budget_day if scope == "all" else settings.budget_sequence
        say(f"today, {scope}: {settled:.6f} spent, {reserved:.6f} reserved, of {budget:g}")
    if not lines:
        say("no words were asked for yet: a send step asks with `personalize: {prompt: …}`")


@words.command(
    epilog="Examples:\n\ndripfleet words show win-back/hello\n\n"
    "dripfleet words show win-back/hello --state failed"
)
def show(
    prompt: str = typer.Argument(help="Name of a prompt, such as win-back/hello."),
    state: str | None = typer.Option(None, help="Only texts that are wanted, ready or failed."),
    limit: int = typer.Option(20, min=1, max=1000, help="How many at most, the newest first."),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> None:
    """Show the texts of a prompt: what was told, what was written, or why it was refused."""
    from sqlalchemy import select

    from models.words import Wording

    table = Wording.__table__
    query = (
        select(
            table.c.state, table.c.asks, table.c.told, table.c.slots, table.c.why, table.c.fault,
            table.c.model, table.c.created_at,
        )
        .where(table.c.prompt == prompt)
        .order_by(table.c.created_at.desc())
        .limit(limit)
    )  # fmt: skip
    if state is not None:
        query = query.where(table.c.state == state)
    with connected() as services, services.database.snapshot() as connection:
        rows = [dict(row._mapping) for row in connection.execute(query)]
    emit(plain(rows), title=f"Texts of {prompt}", as_json=as_json)


@words.command(
    epilog="Examples:\n\ndripfleet words batches\n\ndripfleet words batches --limit 100 --json"
)
def batches(
    limit: int = typer.Option(20, min=1, max=1000, help="How many at most, the newest first."),
    as_json: bool = typer.Option(False, "--json", help="JSON on a terminal too."),
) -> None:
    """Show batches of texts: how each stands at its server, what it saved, what became of its texts."""
    from tasks.personalize import batch_list

    with connected() as services, services.database.snapshot() as connection:
        found = batch_list.newest(connection, limit)
    emit([plain(each) for each in found], title="Batches", as_json=as_json)
    if not found:
        say(
            "no batch was made yet: DRIPFLEET_MODEL_BATCH_MIN texts make one, that are needed no"
            " sooner than DRIPFLEET_MODEL_BATCH_LEAD seconds from now"
        )


def model_server(
    port: int = typer.Option(8000, min=0, max=65535, help="Of 127.0.0.1; 0 takes a free one."),
    latency: float = typer.Option(0.0, min=0.0, help="Seconds before each answer."),
    fail: str = typer.Option(
        "", metavar="CODE:SHARE,…", help="Shares of calls that fail, such as 429:0.1,500:0.05."
    ),
    garbage: float = typer.Option(0.0, min=0.0, max=1.0, help="Share of answers that are wrong."),
    seed: int = typer.Option(0, help="Of the draws."),
    batch: float = typer.Option(0.0, min=0.0, help="Seconds that a batch takes."),
    expire: float = typer.Option(
        0.0, min=0.0, max=1.0, help="Share of a batch's lines that are not answered in its time."
    ),
) -> int:
    """Serve OpenAI's API on this machine until Ctrl-C; it is no language model.

    It answers from the variants of the prompt that it is asked with. Point DRIPFLEET_MODEL_URL at
    it to see what a slow, failing or wrong model does to your mails: nothing but their words.
    """
    from tasks.errors import Misconfigured
    from workers.embedded.model_server import Manners, ModelServer, serve

    try:
        manners = Manners.parse(
            fail, latency=latency, garbage=garbage, seed=seed, batch=batch, expire=expire
        )
    except ValueError as fault:
        raise typer.BadParameter(str(fault)) from None
    try:
        server = ModelServer(port, manners)
    except OSError as fault:
        raise Misconfigured(
            f"port {port} of 127.0.0.1 cannot be had ({fault.strerror}); name another with --port"
        ) from None
    say(f"answers at {server.url}; it is no language model")
    return serve(server)
