"""What the churn pool needs to know."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ChurnSettings(BaseSettings):
    """How the book is scored and trained on; days, and counts of subscribers."""

    model_config = SettingsConfigDict(env_prefix="DRIPFLEET_CHURN_", frozen=True)

    horizon: float = Field(91, ge=1, le=730, description="days without a purchase that are churn")
    range: int = Field(200_000, ge=100, le=1_000_000, description="subscribers scored at once")
    lease: float = Field(300, gt=0, description="s; a range that took longer is taken for lost")
    sample: int = Field(200_000, ge=1_000, description="subscribers that a training looks at")
