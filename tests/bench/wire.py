"""G1, G2, G3: what the fleet uses a mail, beside the wire itself and beside django-post-office.

    python -m tests.bench.goals --only G1,G2,G3

The fleet, the fleet signing by RSA-2048, `smtp-source` with `smtp-sink` (Postfix, in C, without a recipient
or a record), one bare signature of OpenSSL and django-post-office take turns, round by round, and all but the
signature mail to the same smtp-sink. On the same fleet G5 (`slow_relay`) and G6 (`memory`) are asked.

One window to the sink that ships comes first: its ledger is held against what was due and sent.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tasks.errors import Transient
from tests.bench import post_office, slow_relay
from tests.bench.memory import Memory
from tests.bench.pair_window import Window
from tests.bench.question import MICROS, Answers, Plan, ratios
from tests.bench.smtp_pair import MISSING, Pair
from tests.bench.whole_fleet import WholeFleet

GOALS = "G1 G2 G3 G5 G5_source G6 G6_growth"
SIGNED = "Example Company <hello@signed.example>"
SIGNATURES = 1000
FLEET, SIGNING, BARE = (
    "the fleet",
    "the fleet, signing by RSA-2048",
    "one RSA-2048 signature of OpenSSL",
)


def ask(plan: Plan, answers: Answers, args: argparse.Namespace) -> None:
    """Answer those of `GOALS` that are asked for.

    Raises:
        Transient, Permanent: there is no figure, as `WholeFleet.deliver` says.
    """
    pair = Pair.find()
    if pair is None:
        for goal in sorted(plan.wanted & set(GOALS.split()) - {"G6", "G6_growth"}):
            answers.missing[goal] = MISSING
    with ExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="dripfleet-")))
        relays = {}
        window = None
        if pair is not None:
            window = exits.enter_context(Window.open(pair, plan))
            relays["smtp_sink"] = f"smtp://127.0.0.1:{window.port}"
        slow = None
        if plan.wants("G5", "G5_source") and pair is not None:
            slow = exits.enter_context(slow_relay.listening(folder))
            relays["slow"] = slow_relay.url(slow)
        key = generate_private_key(65537, 2048)
        keys = f"signed.example/s={_written(key, folder)}"
        fleet = WholeFleet(plan.mails, plan.connections, plan.say, relays, dkim_keys=keys)
        exits.enter_context(fleet)
        memory = Memory(fleet)
        fleet.deliver("default", ("our sink", fleet.stack.home.sink().pid))
        memory.look()
        if window is not None and plan.wants("G1", "G2", "G3"):
            office = _office(plan, answers, exits, fleet, window)
            _rounds(plan, answers, fleet, window, key, office, memory)
        if slow is not None and pair is not None:
            slow_relay.measure(plan, answers, fleet, slow, pair, folder)
            memory.look()
        if plan.wants("G6", "G6_growth"):
            memory.tell(plan, answers)
        plan.say(f"verify: {fleet.verify()}")


def _office(
    plan: Plan, answers: Answers, exits: ExitStack, fleet: WholeFleet, window: Window
) -> post_office.PostOffice | None:
    if not plan.wants("G2"):
        return None
    try:
        python = post_office.environment(plan.say)
        office = post_office.PostOffice(python, fleet.stack.database_url, window.port)
        return exits.enter_context(office)
    except Transient as fault:
        answers.missing["G2"] = str(fault)
        return None


def _rounds(
    plan: Plan,
    answers: Answers,
    fleet: WholeFleet,
    window: Window,
    key: RSAPrivateKey,
    office: post_office.PostOffice | None,
    memory: Memory,
) -> None:
    micros: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    postgres = fleet.stack.home.postgres().pid
    senders = {FLEET: None, **({SIGNING: SIGNED} if plan.wants("G3") else {})}
    for number in range(plan.rounds):
        plan.say(f"round {number + 1} of {plan.rounds}, load {os.getloadavg()[0]:.1f}")
        for name, sender in senders.items():
            done = fleet.deliver("smtp_sink", ("smtp-sink", window.pid), sender)
            micros.setdefault(name, []).append(done.micros)
            rates.setdefault(name, []).append(done.mails / done.seconds)
            memory.look()
        micros.setdefault(window.name, []).append(window.micros())
        if plan.wants("G3"):
            micros.setdefault(BARE, []).append(_signature(key) * 1e6)
        if office is not None:
            each, rate = office.send(
                _of_the_office(plan), {"sink": window.pid, "postgres": postgres}
            )
            micros.setdefault(office.name, []).append(each)
            rates.setdefault(office.name, []).append(rate)
        plan.say(", ".join(f"{name} {values[-1]:,.0f}" for name, values in micros.items()))
    for name, values in micros.items():
        answers.row(name, MICROS, values)
    for name, values in rates.items():
        answers.row(name, "mails/s", values)
    answers.goals["G1"] = ratios(micros[FLEET], micros[window.name])
    if office is not None:
        answers.goals["G2"] = ratios(micros[FLEET], micros[office.name])
    if plan.wants("G3"):
        least = [plain + bare for plain, bare in zip(micros[FLEET], micros[BARE], strict=True)]
        answers.goals["G3"] = ratios(micros[SIGNING], least)


def _of_the_office(plan: Plan) -> int:
    """It takes some forty times as long a mail: fewer of them are as good a figure."""
    return max(1000, plan.mails // 8)


def _written(key: RSAPrivateKey, folder: Path) -> Path:
    file = folder / "key.pem"
    file.touch(mode=0o600)
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return file


def _signature(key: RSAPrivateKey) -> float:
    """Seconds of processor of one signature."""
    began = time.process_time()
    for _ in range(SIGNATURES):
        key.sign(b"header" * 100, PKCS1v15(), hashes.SHA256())
    return (time.process_time() - began) / SIGNATURES
