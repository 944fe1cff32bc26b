"""The DKIM key of a fleet whose mails go to the sink that ships: made once, kept in its home.

Ed25519 (RFC 8463): made in no time, and a signature costs a tenth of RSA's. Who mails people publishes
an RSA key too, since large providers verify no other yet; `dripfleet doctor dns` says so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from workers.embedded import launch

DOMAIN: Final = "example.com"
SELECTOR: Final = "demo"


def key_file(root: Path) -> Path:
    """Where a home keeps the key."""
    return root / "secrets" / "dkim.pem"


def make_key(root: Path) -> None:
    """Make the key of a home, if it has none."""
    file = key_file(root)
    if file.exists():
        return
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    octets = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    launch.write_private(file, octets.decode("ascii"))


def signing_variables(root: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What a process of a fleet that mails to its own sink is told of signing.

    Nothing where the operator named keys or a sender of their own, or no key was made.
    """
    own = ("DRIPFLEET_DKIM_KEYS", "DRIPFLEET_SENDER_ADDRESS")
    file = key_file(root)
    # The setting is parted by blanks, so a file below a folder with one cannot be named in it.
    if any(environ.get(name, "").strip() for name in own) or len(f"{file}".split()) != 1:
        return {}
    return {"DRIPFLEET_DKIM_KEYS": f"{DOMAIN}/{SELECTOR}={file}"} if file.exists() else {}
