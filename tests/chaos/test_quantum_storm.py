"""A short storm of `tests.chaos.quantum_storm`; the long one is a command of its own."""

from __future__ import annotations

import pytest

from models.session import Database
from tests.chaos.quantum_storm import storm, summary
from tests.live import seeds

pytest.importorskip("cirq", reason="needs the extra quantum")


def test_mixed_work_with_faults_ends_in_a_result_or_a_clear_refusal(database: Database) -> None:
    seeds.subscribers(database, 60)
    found = summary(storm(database, 12, seed=3))
    assert found["unclear"] == []
    assert found["ends"]["done"] >= 4 and found["ends"]["refused"] >= 1
