"""Sequences: the planner and the dispatcher; the only specialism that starts others."""
