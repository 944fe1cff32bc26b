"""All tables, imported once, so that the metadata is whole."""

from models import (
    audience,
    fleet,
    message,
    named_segment,
    quarantine,
    score,
    segment,
    sequence,
    words,
)

__all__ = [
    "audience",
    "fleet",
    "message",
    "named_segment",
    "quarantine",
    "score",
    "segment",
    "sequence",
    "words",
]
