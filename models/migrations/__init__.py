"""Alembic migrations: each is tested up and down."""
