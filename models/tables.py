"""All tables, imported once, so that the metadata is whole."""

from models import (
    audience,
    content_work,
    edge,
    entry,
    experiment,
    fleet,
    message,
    named_segment,
    opt_in,
    quarantine,
    score,
    segment,
    sequence,
    waiting,
    webhook,
    words,
)

__all__ = [
    "audience",
    "content_work",
    "edge",
    "entry",
    "experiment",
    "fleet",
    "message",
    "named_segment",
    "opt_in",
    "quarantine",
    "score",
    "segment",
    "sequence",
    "waiting",
    "webhook",
    "words",
]
