"""`v=DKIM1; k=rsa; p=…`: the tag lists of DKIM, DMARC, MTA-STS and TLS-RPT (RFC 6376 §3.2)."""

from __future__ import annotations


def tags(record: str) -> dict[str, str] | None:
    """Tag → value, of a record; None: it is no such list."""
    found: dict[str, str] = {}
    for part in record.strip().rstrip(";").split(";"):
        name, equals, value = part.partition("=")
        name = name.strip()
        if not equals or not name or name in found:
            return None
        found[name] = value.strip()
    return found


def begins(record: str, version: str) -> bool:
    """Whether a record is of that version: `v=…` stands first, as it must."""
    return record.replace(" ", "").partition(";")[0].lower() == f"v={version}".lower()
