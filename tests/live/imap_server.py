"""An IMAP server for tests: one user, one mailbox, what RFC 9051 says of the commands that are asked."""

from __future__ import annotations

import re
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

USER, PASSWORD = "bounces", "p w"


@dataclass
class Box:
    """What the mailbox holds: mails by UID."""

    validity: int = 1
    mails: dict[int, bytes] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    port: int = 0
    said: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """As settings name it."""
        return f"imap://{USER}:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{self.port}/INBOX"

    def put(self, octets: bytes) -> None:
        """Deliver a mail."""
        self.mails[max(self.mails, default=0) + 1] = octets.replace(b"\n", b"\r\n")


def _asked(box: Box, tag: str, words: str) -> Iterator[bytes]:
    command = words.upper()
    if command.startswith("CAPABILITY"):
        yield b"* CAPABILITY IMAP4rev1 IMAP4rev2\r\n"
    elif command.startswith("LOGIN"):
        if words[6:].replace('"', "") != f"{USER} {PASSWORD}":
            yield f"{tag} NO [AUTHENTICATIONFAILED] no\r\n".encode()
            return
    elif command.startswith("SELECT"):
        if "INBOX" not in command:
            yield f"{tag} NO [NONEXISTENT] no\r\n".encode()
            return
        yield f"* {len(box.mails)} EXISTS\r\n* OK [UIDVALIDITY {box.validity}] x\r\n".encode()
    elif found := re.match(r"UID SEARCH UID (\d+):\*", command):
        above = [uid for uid in sorted(box.mails) if uid >= int(found[1])]
        # `n:*` names the last one in any case.
        told = above or sorted(box.mails)[-1:]
        yield f"* SEARCH {' '.join(map(str, told))}".rstrip().encode() + b"\r\n"
    elif found := re.match(r"UID FETCH (\d+) ", command):
        octets = box.mails[int(found[1])]
        head = f"* 1 FETCH (UID {found[1]} BODY[]<0> {{{len(octets)}}}\r\n".encode()
        yield head + octets + b")\r\n"
    elif found := re.match(r"UID STORE (\d+) \+FLAGS \(\\SEEN\)", command):
        box.seen.add(int(found[1]))
    elif command.startswith("LOGOUT"):
        yield b"* BYE\r\n"
    else:
        yield f"{tag} BAD what is {words}\r\n".encode()
        return
    yield f"{tag} OK done\r\n".encode()


@contextmanager
def serving() -> Iterator[Box]:
    """A mailbox on a port of this machine."""
    box = Box()

    class Conversation(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"* OK ready\r\n")
            while line := self.rfile.readline():
                tag, _, words = line.decode().strip().partition(" ")
                box.said.append(words)
                for part in _asked(box, tag, words):
                    self.wfile.write(part)
                if words.upper() == "LOGOUT":
                    return

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server(("127.0.0.1", 0), Conversation) as server:
        box.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield box
        finally:
            server.shutdown()
            thread.join()
