"""The durations of quantum work. All in seconds; `DRIPFLEET_` and the name."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class QuantumSettings(BaseSettings):
    """How long segment runs belong to their worker, and how long vendors are waited for."""

    model_config = SettingsConfigDict(env_prefix="DRIPFLEET_", frozen=True)

    quantum_lease: float = Field(120, gt=0, description="a segment run belongs to its worker")
    quantum_job_wait: float = Field(
        600, gt=0, description="for a job on somebody else's computer, before it is given up"
    )
