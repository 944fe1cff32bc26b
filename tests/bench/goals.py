"""How near the fleet is to the wire, as ratios of processor time within one run.

    python -m tests.bench.goals [--quick] [--mails 20000] [--rounds 3] [--json]

G1: all that the fleet uses a mail, by what smtp-source and smtp-sink use (Postfix, in C, without a
    recipient or a record). Goal: 3.0 or less.
G3: the fleet with RSA-2048 signatures, by the fleet without and one bare OpenSSL signature. Goal: 1.5.

G5: through a sink that answers each dot after a second, 200 connections in one worker: mails a second
    by the 200 that are possible. Goal: 0.9, and no less than smtp-source's own share.
G6: megabytes that the send worker shares with nobody, after all that. Goal: 90.

G1 and G3 mail through smtp-sink, in turns, round by round. Nothing is printed unless due = sent at
every turn, and the audit is clean. The last line is JSON, goal → median.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tasks.errors import DripfleetError
from tests.bench.cpu_time import cpu_seconds, used_between
from tests.bench.first_figure import QUICK
from tests.bench.smtp_pair import MISSING, SINK, SOURCE, Pair
from tests.bench.whole_fleet import WholeFleet
from workers.cli.render import say
from workers.embedded.sink import start_sink

SIGNED = "Example Company <hello@signed.example>"
SIGNATURES = 1000
PAYLOAD = 3000  # octets below the headers of smtp-source, for mails as long as the fleet's
LATENCY = 1.0  # seconds from a dot to its reply
SLOW_CONNECTIONS = 200
SLOW, SLOW_SOURCE = "the fleet, of what is possible", f"{SOURCE}, of what is possible"
MEMORY = "the send worker's own memory"
PLAIN_FLEET, SIGNED_FLEET, PAIR, BARE = (
    "the fleet",
    "the fleet, signing by RSA-2048",
    f"{SOURCE} and {SINK}",
    "one RSA-2048 signature of OpenSSL",
)


MICROS = " µs of processor a mail"
UNITS = dict.fromkeys((PLAIN_FLEET, SIGNED_FLEET, PAIR, BARE), MICROS) | {MEMORY: " MB"}


def sign_alone(key: RSAPrivateKey) -> float:
    """Seconds of processor of one signature."""
    began = time.process_time()
    for _ in range(SIGNATURES):
        key.sign(b"header" * 100, PKCS1v15(), hashes.SHA256())
    return (time.process_time() - began) / SIGNATURES


def measured(mails: int, rounds: int, connections: int, pair: Pair) -> dict[str, list[float]]:
    """Microseconds of processor a mail by what was measured, a value a round."""
    key = generate_private_key(65537, 2048)
    found: dict[str, list[float]] = {name: [] for name in (PLAIN_FLEET, SIGNED_FLEET, PAIR, BARE)}
    with ExitStack() as exits:
        folder = exits.enter_context(tempfile.TemporaryDirectory(prefix="dripfleet-"))
        port, pid = exits.enter_context(pair.listening())
        file = Path(folder) / "key.pem"
        file.touch(mode=0o600)
        file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        slow = start_sink(Path(folder) / "slow", latency=LATENCY)
        exits.callback(slow.stop)
        relays = {
            "smtp_sink": f"smtp://127.0.0.1:{port}",
            "slow": f"{slow.url}?connections={SLOW_CONNECTIONS}",
        }
        keys = f"signed.example/s={file}"
        with WholeFleet(mails, connections, say, relays, dkim_keys=keys) as fleet:
            for number in range(rounds):
                say(f"round {number + 1} of {rounds}, load {os.getloadavg()[0]:.1f}")
                for name, sender in ((PLAIN_FLEET, None), (SIGNED_FLEET, SIGNED)):
                    done = fleet.deliver("smtp_sink", ("sink", pid), sender)
                    found[name].append(sum(done.cpu.values()) / mails * 1e6)
                before = cpu_seconds({"sink": pid})
                _, used = pair.send(port, mails=mails, connections=connections, payload=PAYLOAD)
                sink = used_between(before, cpu_seconds({"sink": pid}))["sink"]
                found[PAIR].append((used + sink) / mails * 1e6)
                found[BARE].append(sign_alone(key) * 1e6)
            say(f"{SLOW_CONNECTIONS} connections to a sink that answers after {LATENCY:g} s")
            done = fleet.deliver("slow", ("slow sink", slow.pid))
            ideal = mails / SLOW_CONNECTIONS * LATENCY
            # From the first dot on: before it there is the wait for beat's next tick.
            found[SLOW] = [ideal / (done.seconds - done.first + LATENCY)]
            to = int(slow.url.rpartition(":")[2])
            took, _ = pair.send(to, mails=mails, connections=SLOW_CONNECTIONS, payload=PAYLOAD)
            found[SLOW_SOURCE] = [ideal / took]
            found[MEMORY] = [fleet.private_megabytes("send")]
            say(f"verify: {fleet.verify()}")
    return found


def goals(found: dict[str, list[float]]) -> dict[str, list[float]]:
    """Each goal's ratio, round by round."""
    rows = list(
        zip(*(found[name] for name in (PLAIN_FLEET, SIGNED_FLEET, PAIR, BARE)), strict=True)
    )
    return {
        "G1": [plain / pair for plain, _, pair, _ in rows],
        "G3": [signed / (plain + bare) for plain, signed, _, bare in rows],
        "G5": found[SLOW],
        "G6": found[MEMORY],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print; 0, or 1 with a sentence if there is no figure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.goals")
    parser.add_argument("--mails", type=int, default=20_000, help="mails a window")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64, help="SMTP connections")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} mails a window")
    parser.add_argument("--json", action="store_true", help="the JSON line alone")
    args = parser.parse_args(argv)
    pair = Pair.find()
    if pair is None:
        say(MISSING)
        return 1
    mails = QUICK if args.quick else args.mails
    try:
        found = measured(mails, args.rounds, args.connections, pair)
    except DripfleetError as fault:
        say(str(fault))
        return 1
    ratios = goals(found)
    if not args.json:
        for name, values in (*found.items(), *ratios.items()):
            unit = UNITS.get(name, "")
            places = 0 if unit else 2
            low, middle, high = min(values), median(values), max(values)
            sys.stdout.write(
                f"{name}: {middle:.{places}f} ({low:.{places}f}–{high:.{places}f}){unit}\n"
            )
    figures = {name: round(median(values), 2) for name, values in ratios.items()}
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
