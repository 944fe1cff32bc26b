"""MTA-STS (RFC 8461) and TLS-RPT (RFC 8460): that mail to the domain, bounces too, comes encrypted.

Nobody asks a sender for them; so what is not there is told, and is no fault.
"""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from workers.doctor.dns.names import Names
from workers.doctor.dns.tags import begins, tags
from workers.doctor.finding import Finding, error, fine, warning

if TYPE_CHECKING:
    from workers.doctor.dns import Asked

PATIENCE: Final = 5.0
LARGEST: Final = 64_000  # octets of a policy, as RFC 8461 §3.2 suggests
SHORTEST: Final = 86_400  # seconds of max_age below which a policy hardly protects


def mta_sts(names: Names, asked: Asked) -> Iterator[Finding]:
    """The record, and the policy behind it if this machine reaches it."""
    at = f"_mta-sts.{asked.domain}"
    records = [each for each in names.txt(at) if begins(each, "STSv1")]
    if not records:
        hint = f"if you want it: TXT at {at} and a policy at https://mta-sts.{asked.domain}"
        yield Finding("mta-sts", "fine", "none: mail that comes in may come unencrypted", hint)
        return
    said = tags(records[0])
    if (
        len(records) > 1
        or said is None
        or not re.fullmatch(r"[A-Za-z0-9]{1,32}", said.get("id", ""))
    ):
        yield error(
            "mta-sts", f"{at} cannot be read", f'expected one TXT record "v=STSv1; id=…" at {at}'
        )
        return
    url = f"https://mta-sts.{asked.domain}/.well-known/mta-sts.txt"
    policy, why = _fetch(url)
    if policy is None:
        says = f"{at} is there; its policy could not be fetched from here ({why}), so it was not looked at"
        yield warning("mta-sts", says, f"look whether {url} answers")
        return
    yield from _policy(names, asked.domain, policy, url)


def tls_rpt(names: Names, asked: Asked) -> Iterator[Finding]:
    """Whether somebody hears of encryption that failed."""
    at = f"_smtp._tls.{asked.domain}"
    records = [each for each in names.txt(at) if begins(each, "TLSRPTv1")]
    if not records:
        hint = f'if you want reports: TXT at {at}: "v=TLSRPTv1; rua=mailto:…"'
        yield Finding("tls-rpt", "fine", "none: nobody hears of encryption that failed", hint)
        return
    said = tags(records[0])
    rua = "" if said is None else said.get("rua", "")
    if len(records) > 1 or not all(
        each.strip().startswith(("mailto:", "https:")) for each in rua.split(",")
    ):
        hint = f'expected one TXT record "v=TLSRPTv1; rua=mailto:…" at {at}'
        yield error("tls-rpt", f"{at} cannot be read", hint)
        return
    yield fine("tls-rpt", f"reports go to {rua}")


def _policy(names: Names, domain: str, policy: str, url: str) -> Iterator[Finding]:
    pairs = [line.partition(":")[::2] for line in policy.splitlines() if ":" in line]
    said = {name.strip(): value.strip() for name, value in pairs}
    hosts = [value.strip().lower() for name, value in pairs if name.strip() == "mx"]
    mode = said.get("mode", "")
    if said.get("version") != "STSv1" or mode not in ("enforce", "testing", "none"):
        yield error(
            "mta-sts", f"{url} holds no policy", "expected version: STSv1, mode, mx and max_age"
        )
        return
    left_out = [h for _, h in names.mx(domain) if h and not any(_covers(w, h) for w in hosts)]
    if left_out and mode != "none":
        says = f"{', '.join(left_out)} is an MX of {domain} and not in its policy: mail to it is held back"
        yield error(
            "mta-sts", says, f"add mx: {left_out[0]} to {url}, then change id= in the record"
        )
        return
    age = said.get("max_age", "")
    if not age.isdecimal() or int(age) < SHORTEST:
        yield warning(
            "mta-sts", f"its max_age is {age[:20] or 'not there'}", "expected a week or more"
        )
    elif mode != "enforce":
        yield warning(
            "mta-sts", f"mode {mode}: nothing is enforced", "mode: enforce, when reports are clean"
        )
    else:
        yield fine("mta-sts", f"enforced for {', '.join(hosts)}")


def _covers(wanted: str, host: str) -> bool:
    if wanted.startswith("*."):
        return host.partition(".")[2] == wanted[2:]
    return host == wanted


class _Stay(urllib.request.HTTPRedirectHandler):
    """A policy is taken from where it must stand, or not at all (RFC 8461 §3.3)."""

    def redirect_request(self, *_: object) -> None:
        return None


def _fetch(url: str) -> tuple[str | None, str]:
    try:
        with urllib.request.build_opener(_Stay).open(url, timeout=PATIENCE) as answer:
            return answer.read(LARGEST).decode("utf-8", "replace"), ""
    except urllib.error.HTTPError as fault:
        fault.close()
        return None, f"status {fault.code}"
    except (OSError, ValueError) as fault:
        return None, str(getattr(fault, "reason", None) or type(fault).__name__)[:100]
