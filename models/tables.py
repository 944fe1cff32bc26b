"""All tables, imported once, so that the metadata is whole."""

from models import audience, entry, fleet, message, quarantine, score, segment, sequence

__all__ = ["audience", "entry", "fleet", "message", "quarantine", "score", "segment", "sequence"]
