"""Upkeep: what comes back to its place by itself, and the audit that says so."""
