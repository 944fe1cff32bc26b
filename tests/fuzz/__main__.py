"""`python -m tests.fuzz`: what reads bytes of strangers, fed by atheris for as long as one likes.

Needs the dependency group `fuzz` (Linux, x86-64). The corpus of tests/data is where it begins; an input that
breaks what `targets` says is written to the folder and named, and the exit code is 77.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

DATA = Path(__file__).parents[1] / "data"
INSTRUMENTED = [
    "tasks.track", "tasks.return_path", "tasks.tokens", "tasks.send.reply", "workers.edge.providers",
    "email.feedparser", "email.message",
]  # fmt: skip


def seeds(name: str) -> Iterator[bytes]:
    """What a target begins with."""
    if name == "mail":
        yield from (path.read_bytes() for path in sorted((DATA / "inbound").glob("*.eml")))
    elif name == "webhook":
        yield from (path.read_bytes() for path in sorted((DATA / "webhooks").glob("*.json")))
    elif name == "token":
        yield b"k1.AAAAAAAAAfQ.4Ba1VuWlJ4JeIVTcxUFh5g"
        yield b"b+k1.aaaaaaaaaaa7iaaaaabroy6hla.jt4spv6agoz2bnotaw6aa4l3eu@bounces.example.com"
    else:
        yield b"\x05250-mx.example\r\n250-PIPELINING\r\n250 SIZE 1000\r\n"
        yield b"\x20550-5.1.1 The email account\r\n550 5.1.1 does not exist\r\n421 4.7.0 slow\r\n"


def main() -> None:
    """Run one target, or all of them one after the other in processes of their own."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=["mail", "token", "reply", "webhook"])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=Path("var/fuzz"))
    asked = parser.parse_args()
    if find_spec("atheris") is None:
        sys.exit("atheris is not installed; install the dependency group `fuzz` on Linux x86-64")
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
        from tests.fuzz.targets import TARGETS

    folder = asked.folder / asked.target
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(asked.target)):
        (folder / f"seed-{number}").write_bytes(seed)
    options = [
        f"-max_total_time={asked.seconds}", "-timeout=10", "-max_len=20000", "-rss_limit_mb=1000",
        f"-artifact_prefix={folder}-", str(folder),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options], TARGETS[asked.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
