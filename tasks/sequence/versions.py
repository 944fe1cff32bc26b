"""Stored versions of sequences, read once each: they are immutable."""

from __future__ import annotations

from functools import lru_cache

import structlog
from sqlalchemy import text

from models.session import Database
from schedules.definition import Sequence

log = structlog.get_logger()

DEFINITION = text(
    "SELECT definition FROM sequence_version WHERE sequence_key = :key AND version = :version"
)


class Versions:
    """Gives the definition of a version, or None for one that makes no sense to this release."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # A cache needs no end but its size.
        self._read = lru_cache(maxsize=256)(self._load)

    def __call__(self, key: str, version: int) -> Sequence | None:
        """Return the definition; None is logged, once a process."""
        return self._read(key, version)

    def _load(self, key: str, version: int) -> Sequence | None:
        with self._database.transaction() as connection:
            stored = connection.execute(DEFINITION, {"key": key, "version": version}).scalar_one()
        try:
            return Sequence.from_json(stored)
        except ValueError as fault:
            log.error("definition_faulty", sequence=key, version=version, why=str(fault))
            return None
