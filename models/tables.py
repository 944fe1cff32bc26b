"""All tables, imported once, so that the metadata is whole."""

from models import (
    audience,
    content_work,
    edge,
    entry,
    experiment,
    feedback,
    fleet,
    message,
    named_segment,
    quarantine,
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
    "feedback",
    "fleet",
    "message",
    "named_segment",
    "quarantine",
    "score",
    "segment",
    "sequence",
    "waiting",
    "words",
]
