"""The durations of delivery: settings, so that a test can run the same code a hundred times faster."""

from __future__ import annotations

from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class DeliverySettings(BaseSettings):
    """How long a message may stay where it is. All in seconds; `DRIPFLEET_` and the name."""

    model_config = SettingsConfigDict(env_prefix="DRIPFLEET_", frozen=True)

    working_lease: float = Field(120, gt=0, description="a claimed row belongs to its worker")
    renew_every: float = Field(30, gt=0, description="the worker renews that lease")
    arm_margin: float = Field(30, gt=0, description="what must be left of it to ARM")
    armed_lease: float = Field(660, gt=0, description="an armed row belongs to its worker")
    reaper_grace: float = Field(60, gt=0, description="added before the reaper acts")
    reply_wait: float = Field(
        600, gt=0, description="for the reply to the dot (RFC 5321 4.5.3.2.6)"
    )
    doubt_hold: float = Field(900, gt=0, description="before a doubt is settled by policy")
    dot_within: float = Field(0.5, gt=0, description="from the permission to the dot")
    lock_wait: float = Field(10, gt=0, description="a row waits before its dot for its subscriber")
    refused_retry: float = Field(30, gt=0, description="until a row comes back that ARM put off")
    domain_rest: float = Field(60, gt=0, description="of a domain whose relay said 421")
    backoff_first: float = Field(900, gt=0, description="after the first 4yz; doubles")
    backoff_max: float = Field(14400, gt=0, description="and never more than this")
    message_lifetime: float = Field(259200, gt=0, description="from hand-off to `expired`")
    harm_every: float = Field(60, gt=0, description="arms of experiments are looked at for harm")
    max_crashes: int = Field(
        8, gt=5, description="takes that ended in a crash before `poison`, the last three alone"
    )

    @model_validator(mode="after")
    def _order(self) -> Self:
        faults = [
            f"{_variable(low)} ({getattr(self, low):g} s) must be less than"
            f" {_variable(high)} ({getattr(self, high):g} s)"
            for low, high in (
                ("reply_wait", "armed_lease"),
                ("armed_lease", "doubt_hold"),
                ("renew_every", "working_lease"),
                ("arm_margin", "working_lease"),
                ("dot_within", "armed_lease"),
                ("backoff_first", "backoff_max"),
            )
            if not getattr(self, low) < getattr(self, high)
        ]
        if self.renew_every + self.arm_margin > self.working_lease:
            faults.append(
                f"{_variable('renew_every')} + {_variable('arm_margin')}"
                f" ({self.renew_every + self.arm_margin:g} s) must fit into"
                f" {_variable('working_lease')} ({self.working_lease:g} s)"
            )
        if faults:
            raise ValueError("\n  ".join(faults))
        return self

    @property
    def alone(self) -> int:
        """With so many crashes a row is taken alone: three more of them condemn it."""
        return self.max_crashes - 3

    def shortened(self, factor: float) -> DeliverySettings:
        """The same durations divided by `factor`, in the same proportion (tests, chaos).

        `dot_within` keeps its length: it bounds our own code, not a lease.
        """
        kept = {"dot_within", "max_crashes", "message_lifetime"}
        return DeliverySettings(
            **{
                name: value if name in kept else value / factor
                for name, value in self.model_dump().items()
            }
        )

    def environment(self) -> dict[str, str]:
        """These durations as environment variables, for child processes."""
        return {f"DRIPFLEET_{name.upper()}": f"{v:g}" for name, v in self.model_dump().items()}


def _variable(name: str) -> str:
    return f"DRIPFLEET_{name.upper()}"


class IdentitySettings(BaseSettings):
    """What makes the Message-ID of a mail: needed where messages are made.

    Whoever changes the secret changes the ids of messages to come, never of those that stand.
    """

    model_config = SettingsConfigDict(env_prefix="DRIPFLEET_", frozen=True)

    secret_message_id: SecretStr = Field(description="any long random text")
    sender_address: str = Field("hello@example.com", pattern=r"^[^@\s]+@[^@\s]+$")

    @property
    def domain(self) -> str:
        """The right side of Message-IDs: the sender's domain."""
        return self.sender_address.rpartition("@")[2]
