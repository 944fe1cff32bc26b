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
    quarantine,
    relay,
    score,
    segment,
    sequence,
    waiting,
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
    "quarantine",
    "relay",
    "score",
    "segment",
    "sequence",
    "waiting",
    "words",
]
