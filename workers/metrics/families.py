"""The names of all metrics: type, labels, meaning. A test holds METRICS.md, alerts and dashboard to it.

A label's values are few: streams, sequences, segments, steps and relays that an operator named, and
words of ours. Never an address, an id, a relay's text, or the reason that somebody typed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Family:
    """A metric as Prometheus sees it; a counter's name ends in `_total`."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str

    @property
    def series(self) -> tuple[str, ...]:
        """The names that a query may use for it."""
        if self.kind == "histogram":
            return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return (self.name,)


PROCESS: Final = (
    Family("dripfleet_tasks_total", "counter", ("task", "end"), "tasks run; end: done, snoozed, put_off, refused, failed, dropped"),
    Family("dripfleet_task_seconds", "histogram", ("task",), "how long a task ran"),
    Family("dripfleet_doorbells_lost_total", "counter", ("task",), "doorbells that the broker did not take; they are rung again"),
    Family("dripfleet_children_started_total", "counter", (), "child processes of a prefork pool; more than its width means that some died"),
    Family("dripfleet_claimed_total", "counter", ("stream",), "due messages taken"),
    Family("dripfleet_messages_total", "counter", ("stream", "outcome", "reason"), "claimed messages that left this process; outcome: a state, or deferred, given_back, dropped"),
    Family("dripfleet_smtp_replies_total", "counter", ("stage", "code"), "what ended a conversation: stage, and 2xx, 4xx, 5xx, or none for silence"),
    Family("dripfleet_rendered_total", "counter", (), "mails rendered and composed"),
    Family("dripfleet_render_seconds_total", "counter", (), "seconds spent on that"),
    Family("dripfleet_leases_renewed_total", "counter", (), "working leases renewed, of mails that wait long"),
    Family("dripfleet_cycle_seconds", "histogram", (), "how long a transaction of the delivery loop took"),
    Family("dripfleet_cycle_group", "histogram", ("move",), "rows in such a transaction; move: record, arm"),
    Family("dripfleet_armed", "gauge", (), "mails with permission for their dot, whose reply is not settled"),
    Family("dripfleet_held", "gauge", (), "mails that this process holds"),
    Family("dripfleet_window_free", "gauge", (), "places for more of them"),
    Family("dripfleet_journal_bytes", "gauge", (), "length of the journal"),
    Family("dripfleet_journal_torn", "gauge", (), "1: the journal takes no line, so no dot is written"),
    Family("dripfleet_relay_connections", "gauge", ("relay",), "SMTP connections that stand"),
    Family("dripfleet_relay_closed_seconds", "gauge", ("relay",), "how long this relay is left alone still, because it let nobody in"),
    Family("dripfleet_relay_domains_rate", "gauge", ("relay", "domains"), "mails a minute that a limited group of domains is given now, by all workers; other: the slowest of those without a name"),
    Family("dripfleet_relay_domains_share", "gauge", ("relay", "domains"), "that rate by its ceiling: 1 is all that was asked for, little means that the domain asks us to slow down"),
    Family("dripfleet_relay_domains_resting_seconds", "gauge", ("relay", "domains"), "how long this process sends a limited group of domains nothing still"),
)  # fmt: skip
"""What a worker process says of itself; prometheus-client adds `process_*` (memory, CPU, files)."""

EDGE: Final = (
    Family("dripfleet_edge_requests_total", "counter", ("route", "status"), "requests that the edge answered; status: of HTTP"),
    Family("dripfleet_edge_seconds", "histogram", ("route",), "how long an answer of the edge took"),
    Family("dripfleet_edge_group", "histogram", (), "clicks and opens in one transaction"),
    Family("dripfleet_edge_commit_seconds", "histogram", (), "how long such a transaction took"),
    Family("dripfleet_edge_hits_total", "counter", ("agent",), "clicks and opens by the program that came: browser, or a machine of some kind"),
    Family("dripfleet_edge_hits_lost_total", "counter", (), "clicks and opens that were answered and not counted, since Postgres was away"),
    Family("dripfleet_edge_refused_total", "counter", ("reason",), "requests to /v1 that were refused; reason: unknown (key), scope, rate"),
)  # fmt: skip
"""What a process of the edge says of itself."""

FLEET: Final = (
    Family("dripfleet_fleet_postgres_up", "gauge", (), "1: Postgres answered the last look"),
    Family("dripfleet_fleet_redis_up", "gauge", (), "1: Redis answered the last look"),
    Family("dripfleet_fleet_look_seconds", "gauge", (), "how long the last look took"),
    Family("dripfleet_fleet_exact", "gauge", (), "0: a count has met its bound, and is a lower bound"),
    Family("dripfleet_fleet_queue_depth", "gauge", ("queue",), "doorbells that wait in a queue"),
    Family("dripfleet_fleet_messages", "gauge", ("stream", "state"), "live messages; state: due, later, working, armed, in_doubt"),
    Family("dripfleet_fleet_oldest_due_seconds", "gauge", ("stream",), "how long the oldest due message of a stream waits"),
    Family("dripfleet_fleet_doubts_last_hour", "gauge", ("stream",), "attempts of the last hour whose reply never came, settled or not"),
    Family("dripfleet_fleet_doubts_held", "gauge", ("stream",), "mails in doubt that only an operator settles"),
    Family("dripfleet_fleet_outcomes", "gauge", ("sequence", "step", "outcome"), "messages that ended so, ever; a correction may lower it"),
    Family("dripfleet_fleet_enrollments", "gauge", ("sequence", "state"), "people in a sequence; state: active, and of these waiting, held"),
    Family("dripfleet_fleet_to_plan", "gauge", (), "enrollments that the planner has to look at"),
    Family("dripfleet_fleet_to_plan_oldest_seconds", "gauge", (), "how long the oldest of them waits"),
    Family("dripfleet_fleet_workers", "gauge", ("pool",), "workers that answered their canary within 90 s; pool: also send@REGION"),
    Family("dripfleet_fleet_canary_seconds", "gauge", ("pool",), "since a worker of the pool last answered"),
    Family("dripfleet_fleet_tick_seconds", "gauge", ("tick",), "since a tick's work was last done"),
    Family("dripfleet_fleet_schedule_lag_seconds", "gauge", ("schedule",), "how long the oldest fire that is due, or not done yet, waits; 0: none does"),
    Family("dripfleet_fleet_stream_paused", "gauge", ("stream",), "1: the stream is paused"),
    Family("dripfleet_fleet_words", "gauge", ("sequence", "outcome"), "mails handed over with a model's words (outcome: model), or with the template's own, by reason"),
    Family("dripfleet_fleet_texts_wanted", "gauge", ("reason",), "texts of a model that mails wait for and that are not there yet, by reason; counted up to 100 000"),
    Family("dripfleet_fleet_model_closed_seconds", "gauge", ("model",), "how long nobody asks this model still, because it fails; 0: it is asked"),
    Family("dripfleet_fleet_words_yield_seconds", "gauge", (), "for how long words have been yielding to sends, since mails that are due wait; 0: they do not"),
    Family("dripfleet_fleet_word_batches", "gauge", ("state",), "batches of texts under way; state: made, sent"),
    Family("dripfleet_fleet_model_saved", "gauge", (), "what batches cost less than single calls would have, ever, in that currency"),
    Family("dripfleet_fleet_model_spend", "gauge", ("state",), "what words cost today, a day of UTC, in the currency of the price table; state: reserved, settled"),
    Family("dripfleet_fleet_sequence_paused", "gauge", ("sequence",), "1: the sequence is paused"),
    Family("dripfleet_fleet_segment_members", "gauge", ("segment", "state"), "people of a named segment; state: in, and unknown: of whom it cannot be told"),
    Family("dripfleet_fleet_segment_edges", "gauge", ("segment", "edge"), "people who joined or left it in the last hour; edge: join, leave"),
    Family("dripfleet_fleet_segment_age_seconds", "gauge", ("segment",), "since everybody was last evaluated"),
    Family("dripfleet_fleet_segment_overdue_seconds", "gauge", ("segment",), "since everybody was to be evaluated; 0: that time has not come"),
    Family("dripfleet_fleet_segment_took_seconds", "gauge", ("segment",), "how long the last evaluation of everybody took"),
    Family("dripfleet_fleet_segment_faults", "gauge", ("segment",), "evaluations that failed, one after the other"),
    Family("dripfleet_fleet_segment_touch_seconds", "gauge", (), "how long the oldest event that touches a segment has moved nobody"),
    Family("dripfleet_fleet_entries_refused", "gauge", ("sequence", "reason"), "how often somebody did not come into a sequence, ever, by the rule that refused"),
    Family("dripfleet_fleet_entries_waiting", "gauge", ("sequence", "reason"), "people who ask to come in; reason: turn, or what they wait for"),
    Family("dripfleet_fleet_event_oldest_seconds", "gauge", (), "how long the oldest event that a sequence listens for waits to be acted upon"),
    Family("dripfleet_fleet_entry_oldest_seconds", "gauge", (), "for how long somebody's turn to come in is due, where there are places for all"),
    Family("dripfleet_fleet_sequence_draining", "gauge", ("sequence",), "1: the sequence takes nobody new"),
    Family("dripfleet_fleet_webhooks", "gauge", ("endpoint", "state"), "what an endpoint has not been told; state: waiting, dead; counted up to 100 000"),
    Family("dripfleet_fleet_webhook_oldest_seconds", "gauge", ("endpoint",), "how long the oldest thing waits that an endpoint is to be told"),
    Family("dripfleet_fleet_webhook_stands", "gauge", ("endpoint", "state"), "1: the endpoint stands so; state: good, failing, paused, disabled"),
    Family("dripfleet_fleet_came_back", "gauge", ("stream", "outcome", "reason"), "what came back within a day, in mails; outcome: bounced, delayed, complained, left; reason of a bounce: hard, soft, message, policy"),
    Family("dripfleet_fleet_edge_ready", "gauge", (), "1: the edge says that it is ready, at DRIPFLEET_EDGE_URL; absent where none is set"),
)  # fmt: skip
"""What `dripfleet metrics` says of all of it."""

ALL: Final = (*PROCESS, *EDGE, *FLEET)
BY_NAME: Final = {family.name: family for family in ALL}
SERIES: Final = frozenset(name for family in ALL for name in family.series)
