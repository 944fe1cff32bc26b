"""All faults, gathered: importing this module fills `fault.CATALOGUE`."""

from __future__ import annotations

from workers.chaos import of_edge, of_postgres, of_processes, of_queues
from workers.chaos.fault import CATALOGUE, Fault

__all__ = ["CATALOGUE", "Fault", "of_edge", "of_postgres", "of_processes", "of_queues"]
