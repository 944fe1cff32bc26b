"""What `dripfleet doctor dns DOMAIN` looks at: what a domain that sends mail says of itself in the DNS.

Each record is read as receivers read it (`spf`, `dkim`, `dmarc`, `hosts`, `transport`) and told in a
sentence with the next move. `names` asks a resolver; nothing is kept, and nothing is sent to anybody else
but, where a domain publishes MTA-STS, one request for its policy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tasks.send.compliance import RELAY_SIGNS
from tasks.send.dkim import Keyring, Signer
from tasks.send.settings import SendSettings
from workers.doctor.dns import dkim, dmarc, hosts, spf, transport
from workers.doctor.dns.names import Names, Unanswered
from workers.doctor.finding import Finding, warning

__all__ = ["Asked", "look"]


@dataclass(frozen=True, slots=True)
class Asked:
    """Whose records, and what of the fleet they are held against.

    Attributes:
        domain: in ASCII, as it stands in From.
        bounce_address: the envelope's sender; empty: that of From.
        signers: our keys that sign for the domain.
        relay_signs: the relay does, says DRIPFLEET_DKIM_KEYS.
        selectors: of DKIM, beside those that the keys name.
        addresses: that mail leaves by.
    """

    domain: str
    bounce_address: str = ""
    signers: Sequence[Signer] = ()
    relay_signs: bool = False
    selectors: Sequence[str] = ()
    addresses: Sequence[str] = ()

    @classmethod
    def of(
        cls, domain: str, settings: SendSettings, selectors: Sequence[str], addresses: Sequence[str]
    ) -> Asked:
        """What these settings of the send pool say of a domain.

        Raises:
            Misconfigured: a DKIM key cannot be used.
        """
        signers = Keyring.of(settings.dkim_keys).of_sender(f"x@{domain}")
        relay = settings.dkim_keys == RELAY_SIGNS
        return cls(domain, settings.bounce_address, signers, relay, selectors, addresses)

    @property
    def bounces_to(self) -> str:
        """The domain of the envelope's sender, which is what SPF is about."""
        given = self.bounce_address.rpartition("@")[2].lower()
        return given or self.domain


def look(names: Names, asked: Asked) -> list[Finding]:
    """Every check; a name that is not answered hides nothing of the others.

    Raises:
        Unanswered: the resolver answered nothing at all.
    """
    checks: tuple[tuple[str, Callable[[Names, Asked], Iterator[Finding]]], ...] = (
        ("spf", spf.look),
        ("dkim", dkim.look),
        ("dmarc", dmarc.look),
        ("mx", hosts.mx),
        ("ptr", hosts.ptr),
        ("mta-sts", transport.mta_sts),
        ("tls-rpt", transport.tls_rpt),
    )
    found: list[Finding] = []
    for name, check in checks:
        try:
            found += check(names, asked)
        except Unanswered as fault:
            says = f"{fault.name} was not answered ({fault.why}), so nothing is known of it"
            found.append(
                warning(name, says, "run it again, or ask another one: --resolver ADDRESS")
            )
    if not names.answered:
        raise Unanswered(asked.domain, "no question was answered")
    return found
