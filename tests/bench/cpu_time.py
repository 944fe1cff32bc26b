"""What a group of processes has used of the processors, those that it has reaped included."""

from __future__ import annotations

import os
from collections.abc import Mapping

import psutil

from tasks.errors import Transient

OURSELVES = "supervisor"
"""Stands for this process: the parent of the fleet, and what polls its counters."""


def cpu_seconds(roots: Mapping[str, int]) -> dict[str, float]:
    """User and system seconds so far of each process tree, by its name, and of this process.

    A child that ends between two readings is in its parent's account of reaped ones by then, with
    all that it ever used; the first reading had its part of that. So the difference of two
    readings holds for trees whose processes come and go (Postgres's autovacuum), to 10 ms.

    Args:
        roots: name → process id of the topmost process.

    Raises:
        Transient: one of them runs no more, so that no figure can be had.
    """
    used = {name: _tree(name, pid) for name, pid in roots.items()}
    # Of this process alone: the others are its children, and counted by name.
    own = os.times()
    used[OURSELVES] = own.user + own.system
    return used


def used_between(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Seconds by name that went by between two readings of the same processes."""
    return {name: after[name] - before[name] for name in before}


def _tree(name: str, pid: int) -> float:
    try:
        root = psutil.Process(pid)
        members = [root, *root.children(recursive=True)]
        seconds = _account(root)
    except psutil.NoSuchProcess as gone:
        raise Transient(f"{name} ended while it was measured; run the benchmark again") from gone
    for member in members[1:]:
        try:
            seconds += _account(member)
        except psutil.NoSuchProcess:
            # Reaped since: its parent's account will show it at the next reading.
            continue
    return seconds


def _account(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)
