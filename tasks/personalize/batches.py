"""Texts by the Batch API: gathered, sent, looked at, collected; each step may be cut off and be begun again.

A batch is written down before its server hears of it, with what its texts may cost set aside. Whoever
takes up one that was perhaps sent looks for it at the server first, by our id in its metadata. Answers
pass the checks of single ones. A text without a usable answer, or whose mail comes too near, goes to a
single call; what no call answers in time has the template's own words.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from typing import IO, Final

import structlog

from models.session import Database
from tasks.crashpoint import reached
from tasks.personalize import batch_lines, batch_store, batch_texts, checks, engine
from tasks.personalize.batch_api import ENDED, BatchApi, Standing
from tasks.personalize.batch_making import Maker
from tasks.personalize.batch_store import Held, Text
from tasks.personalize.batch_texts import Judged, Lost
from tasks.personalize.client import Answer, Down, Refused, request
from tasks.personalize.engine import Brief
from tasks.personalize.pace import Pace
from tasks.personalize.prices import Price
from tasks.personalize.settings import ModelSettings

CHUNK: Final = 200
"""Answers a transaction."""
TRIES: Final = 12
"""Tries to send a batch, over almost half an hour, before its texts go to single calls."""
WITHOUT: Final = {
    "completed": "batch_error", "failed": "batch_failed", "expired": "batch_expired",
    "cancelled": "batch_late",
}  # fmt: skip
"""Status in which a batch ended → why a text of it has no answer."""

log = structlog.get_logger()


class Batches:
    """Moves batches on; one a process, called from many threads.

    Args:
        database: where texts are wanted.
        settings: from how many texts on, prices, budgets, patience.
        api: the server; by default the one that the settings name.
        pace: how fast answers are taken in; by default one of its own.
    """

    def __init__(
        self,
        database: Database,
        settings: ModelSettings,
        api: BatchApi | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._database = database
        self._settings = settings
        self._given = api
        self._pace = pace or Pace(database, settings)
        self._prices = settings.price_table
        self._maker = Maker(database, settings)

    def work(self, over: Callable[[], bool] = lambda: False) -> int:
        """Make the batches that are to be made, and look at each whose time it is; how many moves."""
        moves = 0
        while not over() and self._maker.make():
            moves += 1
        while not over():
            with self._database.transaction() as connection:
                held = batch_store.take(connection, self._settings.lease)
            if held is None:
                break
            moves += 1
            try:
                self._move(held)
            except Lost:
                log.warning("batch_lost", batch=str(held.id))
        return moves

    def _move(self, held: Held) -> None:
        late = self._settings.batch_spare / 2
        perhaps = held.state == "sent" or held.epoch > 1
        self._give_back(held, "batch_late", billed=perhaps, within=late)
        with self._database.transaction() as connection:
            texts, near = batch_texts.near(connection, held, self._settings.batch_spare)
        if not self._settings.url:
            self._again(held, self._settings.batch_poll, "no_model")
        elif held.state == "made" and texts:
            self._send(held)
        elif held.state == "made":
            self._end(held, "batch_late")
        else:
            self._look(held, texts, near)

    def _send(self, held: Held) -> None:
        """Send a batch up and note it; one that was perhaps sent is looked for first."""
        api = self._api()
        file_id = held.file_id
        if held.epoch > 1:
            found = api.find(held.id, held.made_at)
            if isinstance(found, Down | Refused):
                return self._not_sent(held, found, perhaps=True)
            if found is not None:
                return self._sent(held, found)
            if file_id is None:
                up = api.uploaded(held.id, held.made_at)
                if isinstance(up, Down | Refused):
                    return self._not_sent(held, up, perhaps=False)
                file_id = up
        if file_id is None:
            with tempfile.SpooledTemporaryFile(max_size=4_000_000) as lines:
                self._write(held, lines)
                lines.seek(0)
                sent = api.upload(held.id, lines)
            reached("personalize.batch_uploaded")
            if not isinstance(sent, str):
                return self._not_sent(held, sent, perhaps=False)
            file_id = sent
            self._note(held, file_id=file_id)
        made = api.create(held.id, file_id)
        reached("personalize.batch_created")
        if not isinstance(made, Standing):
            perhaps = isinstance(made, Down) and made.billed
            return self._not_sent(held, made, perhaps=perhaps)
        self._sent(held, made)

    def _write(self, held: Held, lines: IO[bytes]) -> None:
        with self._database.transaction() as connection:
            found = batch_store.texts(connection, held)
        for each in found:
            brief = Brief.from_source(each.source)
            messages, form = engine.messages(brief, each.told), engine.response_format(brief)
            body = request(self._settings, held.model, messages, form)
            lines.write(batch_lines.written(each.key, body))

    def _sent(self, held: Held, made: Standing) -> None:
        with self._database.transaction() as connection:
            ours = batch_store.note(
                connection, held, self._settings.lease, state="sent", file_id=made.input_file,
                server_id=made.server_id, status=made.status, again=self._settings.batch_poll,
            )  # fmt: skip
            noted = None if ours else batch_store.server_of(connection, held)
        if not ours:
            if noted not in (None, made.server_id):
                # Somebody else took it for lost, and looked before it was there: theirs is the one.
                self._api().cancel(made.server_id)
            raise Lost
        log.info("batch_sent", batch=str(held.id), server=made.server_id)

    def _not_sent(self, held: Held, fault: Down | Refused, *, perhaps: bool) -> None:
        """Try again later, or no more: then its texts are alone, and billed if it was `perhaps` made."""
        log.warning("batch_not_sent", batch=str(held.id), why=fault.said)
        if isinstance(fault, Down) and held.tries + 1 < TRIES:
            pause = max(fault.pause or 0.0, min(2.0 ** (held.tries + 1), 300.0))
            return self._again(held, pause, fault.said, tried=1)
        self._give_back(held, "batch_refused", billed=perhaps)
        self._end(held, fault.said)

    def _look(self, held: Held, texts: int, near: int) -> None:
        """See how a batch stands; collect it once it has ended, stop it where it comes too late."""
        assert held.server_id is not None
        api = self._api()
        stands = api.look(held.server_id)
        if isinstance(stands, Down) and texts:
            return self._again(held, self._settings.batch_poll, stands.said)
        if isinstance(stands, Down | Refused):
            log.error("batch_gone", batch=str(held.id), server=held.server_id, why=stands.said)
            self._give_back(held, "batch_lost", billed=True)
            return self._end(held, f"its server {stands.said}")
        if stands.status in ENDED:
            return self._collect(held, stands)
        if stands.status != "cancelling" and 2 * near >= texts:
            # What it has answered by then is billed, and read once it is cancelled.
            log.warning("batch_cancelled", batch=str(held.id), texts=texts, near=near)
            api.cancel(held.server_id)
        self._again(held, self._settings.batch_poll, status=stands.status)

    def _collect(self, held: Held, stands: Standing) -> None:
        for file_id in (stands.output_file, stands.error_file):
            content = self._api().read(file_id) if file_id is not None else b""
            if isinstance(content, Down):
                return self._again(held, self._settings.batch_poll, content.said)
            if isinstance(content, bytes):
                self._take_in(held, content)
        why = WITHOUT[stands.status]
        left = self._give_back(held, why, billed=False)
        for file_id in (held.file_id, stands.output_file, stands.error_file):
            if file_id is not None:
                self._api().forget(file_id)
        said = stands.said or (stands.status if stands.status != "completed" else None)
        self._end(
            held, said or (f"{left} texts without an answer" if left else None), stands.status
        )

    def _take_in(self, held: Held, content: bytes) -> None:
        """Judge the answers of a file, and let their texts go with what came of it."""
        price, full = self._prices.by_batch(held.model), self._prices.of(held.model)
        with self._database.transaction() as connection:
            there = {each.key: each for each in batch_store.texts(connection, held)}
        answers: dict[bytes, Answer] = {}
        for line in batch_lines.read(content):
            if line.answer is not None and line.key in there:
                answers[line.key] = line.answer
        # The soonest needed first, as they stand in the batch.
        left = [key for key in there if key in answers]
        while left:
            # A rest shorter than the lease, which each chunk renews.
            self._pace.rest(lambda: False, self._settings.lease / 3)
            began = time.monotonic()
            now, left = left[: self._pace.most(CHUNK)], left[self._pace.most(CHUNK) :]
            judged = [self._judge(there[key], answers[key], price, full) for key in now]
            with self._database.transaction() as connection:
                batch_texts.answered(connection, held, judged, self._settings.lease)
            self._pace.worked(time.monotonic() - began)
            reached("personalize.batch_taken_in")

    def _judge(
        self, wanted: Text, answer: Answer, price: Price | None, full: Price | None
    ) -> Judged:
        brief = Brief.from_source(wanted.source)
        slots, found = checks.judge(answer.content, brief, wanted.told)
        tokens_in, tokens_out = answer.tokens_in or 0, answer.tokens_out or 0
        cost, saved = None, 0
        if answer.tokens_in is not None and answer.tokens_out is not None and price and full:
            cost = price.cost(tokens_in, tokens_out)
            saved = full.cost(tokens_in, tokens_out) - cost
        state, why, fault = "ready", None, None
        if found:
            again = wanted.tries < self._settings.retries
            state, why = ("wanted", "batch_rejected") if again else ("failed", "checks")
            fault = "; ".join(sentence for _, sentence in found)
            log.warning("text_rejected", prompt=brief.name, checks=[check for check, _ in found])
        words = None if found else json.dumps(slots, ensure_ascii=False)
        return Judged(wanted.key, state, words, why, fault, cost, saved, tokens_in, tokens_out)

    def _give_back(self, held: Held, why: str, *, billed: bool, within: float | None = None) -> int:
        with self._database.transaction() as connection:
            lease = self._settings.lease
            left = batch_texts.give_back(connection, held, why, lease, billed=billed, within=within)
        if left:
            log.warning("batch_gave_back", batch=str(held.id), texts=left, why=why)
        return left

    def _note(self, held: Held, *, file_id: str) -> None:
        with self._database.transaction() as connection:
            if not batch_store.note(connection, held, self._settings.lease, file_id=file_id):
                raise Lost

    def _again(
        self, held: Held, pause: float, why: str | None = None, *, status: str | None = None,
        tried: int = 0,
    ) -> None:  # fmt: skip
        with self._database.transaction() as connection:
            batch_store.note(
                connection, held, self._settings.lease, status=status, why=why, again=pause,
                tried=tried,
            )  # fmt: skip

    def _end(self, held: Held, why: str | None, status: str | None = None) -> None:
        with self._database.transaction() as connection:
            lease = self._settings.lease
            batch_store.note(connection, held, lease, state="ended", why=why, status=status)
        log.info("batch_ended", batch=str(held.id), status=status, why=why)

    def _api(self) -> BatchApi:
        if self._given is None:
            self._given = BatchApi(self._settings)
        return self._given
