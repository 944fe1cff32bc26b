"""Where work on content is done, by a worker or by the command that asked: model calls within budgets."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from models.session import Database
from tasks import names
from tasks.crashpoint import reached
from tasks.errors import Misconfigured, Permanent
from tasks.personalize import circuit, engine, money, requests, sentiment
from tasks.personalize.client import Answer, Client, Down
from tasks.personalize.commission import Commission
from tasks.personalize.comparison import Read, rows
from tasks.personalize.draft import Draft
from tasks.personalize.prices import MILLION, millionths
from tasks.personalize.prose import Prose
from tasks.personalize.requests import Held
from tasks.personalize.review import review
from tasks.personalize.settings import ModelSettings
from tasks.personalize.subject_lines import SubjectLines
from tasks.personalize.work import Asks

PATIENCE: Final = 120.0
"""Seconds of one call at least: a draft is long, and nobody's mail waits for it."""

log = structlog.get_logger()


class Absent(Exception):
    """The model did not answer; `pause` seconds are what its server asked for."""

    def __init__(self, said: str, pause: float | None) -> None:
        super().__init__(said)
        self.pause = pause


class Desk:
    """Does work on content; one a process or command.

    Args:
        database: where it is asked for.
        settings: the model's server, prices, budgets.
        client: the model; by default the server that the settings name.
        quiet: a command says itself what a worker would log.
    """

    def __init__(
        self,
        database: Database,
        settings: ModelSettings,
        client: Asks | None = None,
        *,
        quiet: bool = False,
    ) -> None:
        self._quiet = quiet
        self._database = database
        self._settings = settings
        self._given = client
        self._budgets = money.Budgets(
            millionths(settings.budget_day), millionths(settings.budget_sequence)
        )

    def work(self, task: str, over: Callable[[], bool] = lambda: False) -> dict[str, int]:
        """Do all the work of a task that may be done now, or until `over` says so; how it ended."""
        told = {"done": 0, "failed": 0, "later": 0}
        while not over():
            with self._database.transaction() as connection:
                held = requests.claim(connection, task=task)
            if held is None:
                break
            reached("content.claimed")
            told[self._do(held, patient=True)] += 1
        return told

    def do(self, id: int) -> None:
        """Do the work of that id now; a model that does not answer ends it.

        Raises:
            Permanent: it may not be done now.
        """
        with self._database.transaction() as connection:
            held = requests.claim(connection, id=id)
            row = requests.look(connection, id)
        if held is not None:
            self._do(held, patient=False)
        elif row.state == "open":
            why = "somebody else does it"
            if row.not_before is not None:
                why = f"the model {row.model} {row.since}, and is not asked before {_clock(row)}"
            raise Permanent(f"work {id} is not done now: {why}; look with `dripfleet content jobs`")

    def _do(self, held: Held, *, patient: bool) -> str:
        found: Mapping[str, Any] | None = None
        try:
            if held.tries > requests.MOST:
                raise Permanent(f"begun {requests.MOST} times and never ended: it kills its worker")
            found, said = self._found(held), "done"
        except Absent as absent:
            said = f"the model {held.model} {absent}"
            if patient and held.tries < requests.MOST:
                pause = max(absent.pause or 0.0, 2.0**held.tries)
                with self._database.transaction() as connection:
                    requests.later(connection, held, said, pause)
                return "later"
        except Permanent as fault:
            said = str(fault)
        except Exception as fault:
            said = f"{type(fault).__name__}; see the log"
            log.exception("content_failed", task=held.task, kind=type(fault).__name__)
        with self._database.transaction() as connection:
            requests.end(connection, held, found, said)
        if found is None and not self._quiet:
            log.error("content_refused", task=held.task, why=said)
        return "failed" if found is None else "done"

    def _found(self, held: Held) -> Mapping[str, Any]:
        asked = held.asked
        if held.task == names.CONTENT_DRAFT:
            return self._written(held, Draft.from_json(asked))
        if held.task == names.CONTENT_SUBJECT_LINES:
            return self._written(held, SubjectLines.from_json(asked))
        if held.task == names.CONTENT_REVIEW:
            return reviewed(asked)
        if held.task == names.CONTENT_COMPARE:
            found = compared(asked)
            if asked["prose"]:
                found |= self._written(held, Prose(found["rows"]))
            return found
        raise Permanent(f"no work on content is called {held.task!r}; ask by `dripfleet content`")

    def _written(self, held: Held, commission: Commission) -> Mapping[str, Any]:
        """Ask, check, ask again with the reasons.

        Raises:
            Absent: the model did not answer.
            Permanent: its answers were refused, or it may not be asked.
        """
        fault, best = None, None
        tries = 1 + self._settings.retries
        for _ in range(tries):
            made = commission.read(self._answer(held, commission, fault))
            best = made.made if made.made is not None else best
            if not made.faults:
                break
            fault = "; ".join(made.faults)
            if not self._quiet:
                log.warning("content_rejected", task=held.task, why=fault)
        if best is None:
            raise Permanent(
                f"{tries} answers of the model {held.model} were refused, the last one since {fault};"
                " say it otherwise, or ask another model"
            )
        return best

    def _answer(self, held: Held, commission: Commission, fault: str | None) -> str:
        model = held.model
        if model is None or (not self._settings.url and self._given is None):
            raise Permanent(
                "no model's server is named: set DRIPFLEET_MODEL_URL, or start `dripfleet"
                " model-server`, which is no language model, and name that"
            )
        price = self._settings.price_table.of(model)
        if price is None:
            raise Permanent(
                f"the model {model} has no price: name it in DRIPFLEET_MODEL_PRICES; 0/0 is free"
            )
        sent = commission.messages(fault)
        most = price.cost(engine.most_tokens(sent, commission.form), commission.tokens)
        with self._database.transaction() as connection:
            set_aside = money.reserve(connection, held.scope, most, self._budgets)
            if set_aside is None:
                raise Permanent(
                    f"today's budget does not hold the {most / MILLION:.6f} that a call for"
                    f" {held.scope} may cost: raise DRIPFLEET_MODEL_BUDGET_DAY or _BUDGET_SEQUENCE, or"
                    " let tomorrow (UTC) come"
                )
            if not requests.reserved(connection, held, most, set_aside.day):
                money.settle(connection, set_aside, 0)
                raise Permanent("its lease ran out: somebody else does it now")
        reached("content.reserved")
        reply = self._asked(model, sent, commission)
        cost = most if isinstance(reply, Down) and reply.billed else 0
        if isinstance(reply, Answer):
            counted = reply.tokens_in is not None and reply.tokens_out is not None
            # A server that counts nothing has cost what it could have.
            cost = price.cost(reply.tokens_in or 0, reply.tokens_out or 0) if counted else most
        with self._database.transaction() as connection:
            money.settle(connection, set_aside, cost)
            requests.called(connection, held, cost)
            if isinstance(reply, Down):
                circuit.fault(connection, model, reply.said, reply.pause)
            elif isinstance(reply, Answer):
                circuit.fine(connection, model)
        if isinstance(reply, Down):
            raise Absent(reply.said, reply.pause)
        if not isinstance(reply, Answer):
            raise Permanent(f"the model {model} refuses this: it {reply.said}; say it otherwise")
        return reply.content

    def _asked(self, model: str, sent: Any, commission: Commission) -> Any:
        if self._given is not None:
            return self._given.ask(model, sent, commission.form)
        patience = max(self._settings.timeout, PATIENCE)
        client = Client(
            self._settings.model_copy(
                update={"output_tokens": commission.tokens, "timeout": patience}
            )
        )
        try:
            return client.ask(model, sent, commission.form)
        finally:
            client.close()


def reviewed(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The figures and notes of a mail; `asked` has subject, plain, html, language."""
    look = review(
        asked["subject"],
        asked["plain"],
        asked["html"],
        language=asked["language"],
        sentiment=_scorer(asked["language"]),
    )
    notes = [
        {"check": n.check, "severity": n.severity, "says": n.says, "next": n.next}
        for n in look.notes
    ]
    return {"figures": look.figures, "notes": notes}


def compared(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of theirs and ours, a row each; `asked` has theirs, ours, language."""
    theirs, ours = [_read(each) for each in asked["theirs"]], _read(asked["ours"])
    language = asked["language"]
    return {"rows": rows(theirs, ours, language=language, sentiment=_scorer(language))}


def as_asked(mail: Read) -> dict[str, Any]:
    """A mail as a request holds it."""
    return {
        "subject": mail.subject,
        "plain": mail.plain,
        "html": mail.html,
        "sent_at": None if mail.sent_at is None else mail.sent_at.isoformat(),
        "can_leave": mail.can_leave,
    }


def _read(asked: Mapping[str, Any]) -> Read:
    sent_at = None if asked["sent_at"] is None else dt.datetime.fromisoformat(asked["sent_at"])
    return Read(asked["subject"], asked["plain"], asked["html"], sent_at, asked["can_leave"])


def _scorer(language: str) -> Callable[[str], float] | None:
    """VADER, where it is installed and knows the language."""
    try:
        return sentiment.scorer() if language == "en" else None
    except Misconfigured:
        return None


def _clock(row: Any) -> str:
    return f"{row.not_before:%H:%M:%S} UTC"
