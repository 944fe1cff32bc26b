"""What one mail's words and headers cost in processor time, laid out beforehand and rendered whole.

    python -m tests.bench.composed_mail [--mails 2000] [--rounds 7] [--json]

The first thank-you mail that ships, to subscribers with names and attributes of all kinds. Both ways
take turns round by round and must give the same octets; believe the ratio.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from statistics import median
from typing import Any

from tasks.send.content import Content, Facts, Sender, compose, unsubscribe_url
from tasks.send.render import bundle_from_folder, compile
from tasks.send.skeleton import Skeleton
from tasks.send.tokens import unsubscribe_token
from workers.cli.proof import installed_templates

MAIL = "thank-you/first"
NAMES = ("Olivia", "Zoë", "Liam", "José", "Łukasz", "Imogen", "美咲", "Γιώργος")
SECRET = b"benchmark".ljust(32)
SENDER = Sender(
    "Example Company", "hello@example.com", "Example Company, 1 Example Street", "off@example.com"
)


def one(number: int) -> tuple[dict[str, Any], Facts]:
    """What a claim knows of one subscriber, and the facts of their mail."""
    token = unsubscribe_token(SECRET, "k1", number)
    attributes = {"purchases": 1 + number % 9, "spent": number * 7919 % 50_000 / 100}
    variables = {
        "subscriber": {
            "first_name": NAMES[number % len(NAMES)],
            "locale": "en-GB",
            "zone": "Europe/London",
            "attributes": {**attributes, "last_purchase": f"2026-01-{1 + number % 28:02}"},
        },
        "words": {},
        "sender": {"name": SENDER.name, "postal_address": SENDER.postal_address},
        "unsubscribe": {"mailto": unsubscribe_url(SENDER, token)},
    }
    key = sha256(str(number).encode()).digest()
    address = f"customer-{number:07}@example.com"
    at = datetime(2026, 3, 1, 12, 0, number % 60, tzinfo=UTC)
    return variables, Facts(f"<{key.hex()[:32]}@example.com>", address, at, key, token)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.composed_mail")
    parser.add_argument("--mails", type=int, default=2000, help="a round and way")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="the JSON line alone")
    args = parser.parse_args(argv)
    bundle = bundle_from_folder(installed_templates(), MAIL)
    mails = [one(number) for number in range(args.mails)]
    whole, laid = compile(bundle), Skeleton(bundle, mails[0][0]["sender"])

    def rendered(variables: dict[str, Any], facts: Facts) -> Content:
        return compose(whole.render(variables), message=facts, sender=SENDER)

    def laid_out(variables: dict[str, Any], facts: Facts) -> Content:
        return laid.compose(variables, message=facts, sender=SENDER)

    ways: dict[str, Callable[[dict[str, Any], Facts], Content]]
    ways = {"rendered whole": rendered, "laid out": laid_out}
    if any(rendered(*mail) != laid_out(*mail) for mail in mails):
        sys.stderr.write("the two ways differ, so there is no figure\n")
        return 1
    gc.collect()
    gc.freeze()  # the list of subscribers is the benchmark's, not a worker's
    micros: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, way in ways.items():
            began = time.process_time()
            for mail in mails:
                way(*mail)
            micros[name].append((time.process_time() - began) / len(mails) * 1e6)
    ratios = [a / b for a, b in zip(micros["rendered whole"], micros["laid out"], strict=True)]
    if not args.json:
        for name, values in micros.items():
            sys.stdout.write(
                f"{name}: {median(values):.0f} µs a mail ({min(values):.0f}–{max(values):.0f})\n"
            )
        sys.stdout.write(
            f"ratio: {median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}), mails of"
            f" {len(rendered(*mails[0]).octets)} octets\n"
        )
    figures = {name: round(median(values), 1) for name, values in micros.items()}
    sys.stdout.write(json.dumps({**figures, "ratio": round(median(ratios), 2)}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
