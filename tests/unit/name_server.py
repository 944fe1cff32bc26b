"""A DNS server of a test, on loopback and over UDP: what it was given, NXDOMAIN for everything else."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

Zone = dict[str, dict[str, Sequence[str]]]
"""Name → type → records as zone files have them; a name without types fails (SERVFAIL)."""


def quoted(text: str) -> str:
    """A TXT record of strings of 255 octets at most, as a zone file has it."""
    parts = [text[n : n + 255] for n in range(0, len(text), 255)] or [""]
    return " ".join('"' + part.replace('"', '\\"') + '"' for part in parts)


@contextlib.contextmanager
def serving(zone: Mapping[str, Mapping[str, Sequence[str]]]) -> Iterator[int]:
    """The port that it answers at."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=_serve, args=(wire, zone), daemon=True)
        thread.start()
        try:
            yield wire.getsockname()[1]
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", wire.getsockname())
            thread.join(5)


def _serve(wire: socket.socket, zone: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    while True:
        octets, asker = wire.recvfrom(4096)
        if not octets:
            return
        query = dns.message.from_wire(octets)
        (question,) = query.question
        name = question.name.to_text(omit_final_dot=True).lower()
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        if name not in zone:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif not zone[name]:
            answer.set_rcode(dns.rcode.SERVFAIL)
        else:
            records = zone[name].get(dns.rdatatype.to_text(question.rdtype), ())
            if records:
                answer.answer.append(
                    dns.rrset.from_text(question.name, 60, "IN", question.rdtype, *records)
                )
        wire.sendto(answer.to_wire(), asker)
