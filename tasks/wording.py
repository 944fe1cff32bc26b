"""What a text of a model is known by: the sequence pool asks under it, the personalize pool answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

SHIPPED: Final = "variants"
"""The model of the server that ships; it is no language model, and costs nothing."""

OWNED_BY: Final = "dripfleet: no language model"
"""What that server says of itself where it lists its models."""


class WordingSettings(BaseSettings):
    """Which model writes: the same for every pool, since it is part of what a text is known by."""

    model_config = SettingsConfigDict(env_prefix="DRIPFLEET_", frozen=True)

    model: str = Field(SHIPPED, min_length=1, description="as the model's server calls it")


def key_of(prompt_sha256: bytes, model: str, told: Mapping[str, str | None]) -> bytes:
    """32 bytes: equal where prompt version, model and everything told are."""
    values = json.dumps(dict(told), sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(b"dripfleet wording 1\n" + prompt_sha256)
    for each in (model, values):
        octets = each.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(octets) + octets)
    return digest.digest()
