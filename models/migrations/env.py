"""Runs the migrations on the connection that `models.migrate` hands over."""

from __future__ import annotations

from alembic import context

from models import tables  # noqa: F401  (fills the metadata)
from models.base import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
