"""What the delivery of webhooks needs to know."""

from __future__ import annotations

from functools import cached_property

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tasks.errors import Misconfigured
from tasks.webhooks.target import Network, networks


class WebhookSettings(BaseSettings):
    """`DRIPFLEET_` and the name. Secrets of endpoints are made from that of the addresses, which stays."""

    model_config = SettingsConfigDict(env_prefix="DRIPFLEET_", frozen=True)

    secret_address: SecretStr = Field(min_length=16, description="what secrets are made from")
    webhook_networks: str = Field(
        "", description="networks of your own that endpoints may stand in, by http too"
    )
    webhook_timeout: float = Field(10, gt=0, le=60, description="seconds for one request, in all")
    webhook_give_up: float = Field(
        259200, gt=0, description="seconds after which what nobody took is a dead letter"
    )
    webhook_disable_after: float = Field(
        432000, gt=0, description="seconds of nothing but failures, then an endpoint is disabled"
    )
    webhook_keep_days: int = Field(
        14, ge=1, description="days that delivered and dead ones are kept, to be replayed"
    )

    @property
    def key(self) -> bytes:
        """What secrets are made from."""
        return self.secret_address.get_secret_value().encode()

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        """Networks of the operator's own that may be called.

        Raises:
            Misconfigured: one is none.
        """
        return networks(self.webhook_networks)


def load() -> WebhookSettings:
    """The settings from the environment.

    Raises:
        Misconfigured: one is missing or wrong.
    """
    try:
        settings = WebhookSettings()
    except ValidationError as fault:
        first = fault.errors()[0]
        name = "_".join(map(str, first["loc"])).upper()
        raise Misconfigured(f"DRIPFLEET_{name}: {first['msg']}; see deploy/env.example") from None
    settings.networks  # noqa: B018  # said before anything is sent
    return settings
