"""All tables, imported once, so that the metadata is whole."""

from models import audience, fleet, message, quarantine, score, segment, sequence, waiting

__all__ = ["audience", "fleet", "message", "quarantine", "score", "segment", "sequence", "waiting"]
