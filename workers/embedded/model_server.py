"""A small server that speaks OpenAI's API and is no language model: it answers from given variants.

The offline default, and the double of the tests. A request that asks for slots (Structured Outputs)
is answered with one of the examples that its own first message holds, always the same one for the same
data. It says so at ``GET /v1/models``, where `owned_by` is ``dripfleet: no language model``.

It can be made slow, failing and wrong::

    --latency 0.5                    seconds before each answer
    --fail 429:0.1,500:0.05          the share of calls that are answered so; 429 with Retry-After: 1
    --garbage 0.1                    the share of answers that no check should let through
    --batch 30                       seconds that a batch takes
    --expire 0.1                     the share of a batch's lines that are not answered in its time
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from tasks.personalize.engine import EXAMPLE
from tasks.wording import OWNED_BY, SHIPPED
from workers.embedded import launch
from workers.embedded.model_batches import LARGEST as FILE
from workers.embedded.model_batches import Desk

LARGEST: Final = 1_000_000
_DATA: Final = re.compile(r"<data>\s*(\{.*\})\s*</data>", re.DOTALL)
_FAIL: Final = re.compile(r"([45]\d\d):(0(?:\.\d+)?|1(?:\.0+)?)")

GARBAGE: Final[tuple[str, ...]] = (
    "I am sorry, but as a language model I cannot help with that.",
    "link", "markup", "offer", "header", "long", "missing", "placeholder", "language", "shouting",
)  # fmt: skip
"""What a wrong answer is: no JSON at all, or an answer whose first slot is spoilt in that way."""

_SPOILT: Final[dict[str, str]] = {
    "link": "See https://offers.example.net/now for more",
    "markup": "<b>Welcome back</b> to our shop",
    "offer": "Take 90 % off everything today",
    "header": "Bcc: everybody in our list of customers",
    "long": "We are very glad to see you again. " * 60,
    "placeholder": "Hello [INSERT NAME HERE], welcome back",
    "language": "Wir haben dich lange nicht gesehen und würden uns sehr über dich freuen",
    "shouting": "ACT NOW!!! LIMITED TIME ONLY, THIS IS URGENT!!!",
}


@dataclass(frozen=True)
class Manners:
    """How the server behaves; shares are from 0 to 1."""

    latency: float = 0.0
    fail: Mapping[int, float] = field(default_factory=dict)
    garbage: float = 0.0
    seed: int = 0
    batch: float = 0.0
    expire: float = 0.0

    @classmethod
    def parse(
        cls, fail: str, *, latency: float, garbage: float, seed: int = 0, batch: float = 0.0,
        expire: float = 0.0,
    ) -> Manners:  # fmt: skip
        """Read the options of the command line.

        Raises:
            ValueError: one cannot be read, or the shares are together more than one.
        """
        shares: dict[int, float] = {}
        for entry in filter(None, fail.split(",")):
            match = _FAIL.fullmatch(entry.strip())
            if match is None:
                raise ValueError(f"--fail {entry!r}: expected CODE:SHARE, such as 429:0.1")
            shares[int(match[1])] = float(match[2])
        whole = (sum(shares.values()), garbage, expire)
        if not all(0 <= share <= 1 for share in whole) or min(latency, batch) < 0:
            raise ValueError(
                "--fail, --garbage and --expire are shares from 0 to 1, --latency and --batch are"
                " not below 0"
            )
        return cls(latency, shares, garbage, seed, batch, expire)


class ModelServer(ThreadingHTTPServer):
    """The server; `calls` counts what it was asked for and how it answered."""

    daemon_threads = True
    # As many at once as workers may have; the kernel's default drops the rest.
    request_queue_size = 256

    def __init__(self, port: int, manners: Manners) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.manners = manners
        self.calls: Counter[str] = Counter()
        self._random = random.Random(manners.seed)
        self._lock = threading.Lock()
        self.desk = Desk(self.answer, manners.batch, self._left)

    @property
    def url(self) -> str:
        """Base URL of its API."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def draw(self) -> tuple[int | None, str | None]:
        """How the next call is answered: an error's code, or a kind of garbage, or well."""
        with self._lock:
            point = self._random.random()
            for code, share in self.manners.fail.items():
                if point < share:
                    self.calls[str(code)] += 1
                    return code, None
                point -= share
            if self._random.random() < self.manners.garbage:
                self.calls["garbage"] += 1
                return None, self._random.choice(GARBAGE)
            self.calls["fine"] += 1
            return None, None

    def answer(self, body: bytes) -> tuple[int, Any]:
        """One call: the body of a request → a status, and an answer or an error."""
        code, garbage = self.draw()
        if code is not None:
            return code, _error(code, "made to fail")
        try:
            asked = json.loads(body)
            content = completion(asked, garbage)
        except (ValueError, TypeError, KeyError, AttributeError) as fault:
            return 400, _error(400, f"not understood ({type(fault).__name__})")
        sent = sum(len(str(each.get("content"))) for each in asked["messages"])
        usage = {"prompt_tokens": sent // 4, "completion_tokens": len(content) // 4}
        usage["total_tokens"] = sum(usage.values())
        message = {"role": "assistant", "content": content}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return 200, {
            "id": "chatcmpl-" + hashlib.sha256(body).hexdigest()[:24],
            "object": "chat.completion",
            "created": int(time.time()),
            "model": asked.get("model", SHIPPED),
            "choices": [choice],
            "usage": usage,
        }

    def _left(self) -> bool:
        with self._lock:
            return self._random.random() < self.manners.expire


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ModelServer

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what is asked may hold what somebody wrote."""

    def do_GET(self) -> None:
        """``/v1/models``, ``/v1/files`` and ``/v1/batches``."""
        if self._page() == "models":
            one = {"id": SHIPPED, "object": "model", "created": 0, "owned_by": OWNED_BY}
            return self._answer(200, {"object": "list", "data": [one]})
        found = self.server.desk.get(self._page())
        if isinstance(found, bytes):
            return self._write(200, "application/octet-stream", found)
        self._answer(*(found or _NO_PAGE))

    def do_DELETE(self) -> None:
        """``/v1/files/ID``."""
        self._answer(*(self.server.desk.delete(self._page()) or _NO_PAGE))

    def do_POST(self) -> None:
        """``/v1/chat/completions``, ``/v1/files`` and ``/v1/batches``."""
        size = int(self.headers.get("content-length") or 0)
        page = self._page()
        if size > (FILE if page == "files" else LARGEST):
            self.close_connection = True
            return self._answer(413, _error(413, "the request is too large"))
        body = self.rfile.read(size)
        if page == "chat/completions":
            if self.server.manners.latency:
                time.sleep(self.server.manners.latency)
            code, value = self.server.answer(body)
            return self._answer(code, value, {"retry-after": "1"} if code == 429 else {})
        try:
            kind = self.headers.get("content-type") or ""
            self._answer(*(self.server.desk.post(page, body, kind) or _NO_PAGE))
        except (ValueError, TypeError, KeyError, AttributeError) as fault:
            self._answer(400, _error(400, f"not understood ({type(fault).__name__})"))

    def _page(self) -> str:
        """What stands behind ``/v1/``; empty for anything else."""
        path = self.path.partition("?")[0].strip("/")
        return path.removeprefix("v1/") if path.startswith("v1/") else ""

    def _answer(self, code: int, value: Any, headers: Mapping[str, str] = {}) -> None:
        self._write(code, "application/json", json.dumps(value).encode(), headers)

    def _write(self, code: int, kind: str, octets: bytes, headers: Mapping[str, str] = {}) -> None:
        self.send_response(code)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(octets)))
        for name, said in headers.items():
            self.send_header(name, said)
        self.end_headers()
        self.wfile.write(octets)


def _error(code: int, said: str) -> dict[str, Any]:
    kind = "rate_limit_error" if code == 429 else "server_error" if code >= 500 else "invalid"
    return {"error": {"message": said, "type": kind, "code": str(code)}}


_NO_PAGE: Final = (
    404,
    _error(404, "no such page; expected /v1/models, chat/completions, files or batches"),
)


def completion(asked: Mapping[str, Any], garbage: str | None = None) -> str:
    """The content of an answer.

    Raises:
        KeyError, TypeError, ValueError: it was asked for something else than slots.
    """
    if garbage == GARBAGE[0]:
        return garbage
    messages = asked["messages"]
    schema = asked["response_format"]["json_schema"]["schema"]
    slots = list(schema["required"])
    system = "\n".join(each["content"] for each in messages if each["role"] == "system")
    rest = "\n".join(each["content"] for each in messages if each["role"] == "user")
    found = _DATA.search(rest)
    data = json.loads(found[1]) if found else {}
    variants = [
        json.loads(line.removeprefix(EXAMPLE))
        for line in system.splitlines()
        if line.startswith(EXAMPLE)
    ]
    usable = [
        each
        for each in variants
        if set(each) == set(slots)
        and all(_named(said, data) for said in each.values() if isinstance(said, str))
    ]
    if usable:
        # The same data has the same answer, and other data often another.
        digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).digest()
        made = dict(usable[int.from_bytes(digest[:4], "big") % len(usable)])
    else:
        made = dict.fromkeys(slots, "There is no variant to answer from")
    if garbage == "missing":
        made.pop(slots[-1])
    elif garbage is not None:
        made[slots[0]] = _SPOILT[garbage]
    return json.dumps(made, ensure_ascii=False)


def _named(text: str, data: Mapping[str, Any]) -> bool:
    """Whether each placeholder of a variant stands for somebody who has that name."""
    return all(data.get(name) for name in re.findall(r"\[(\w+)\]", text))


@contextmanager
def in_thread(manners: Manners = Manners(), port: int = 0) -> Iterator[ModelServer]:
    """A server on a thread of this process, for tests."""
    server = ModelServer(port, manners)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m workers.embedded.model_server", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--ready-file", type=Path, help="JSON with url and pid, once it listens")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument(
        "--fail", default="", metavar="CODE:SHARE,…", help="such as 429:0.1,500:0.05"
    )
    parser.add_argument("--garbage", type=float, default=0.0, help="share of wrong answers")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--batch", type=float, default=0.0, help="seconds that a batch takes")
    parser.add_argument(
        "--expire", type=float, default=0.0, help="share of a batch's lines without an answer"
    )
    args = parser.parse_args(argv)
    try:
        manners = Manners.parse(
            args.fail, latency=args.latency, garbage=args.garbage, seed=args.seed,
            batch=args.batch, expire=args.expire,
        )  # fmt: skip
        server = ModelServer(args.port, manners)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return serve(server, args.ready_file)


def serve(server: ModelServer, ready_file: Path | None = None) -> int:
    """Serve until SIGTERM or SIGINT, from the main thread."""

    def over(number: int, frame: object) -> None:
        threading.Thread(target=server.shutdown, daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, over)
    with server:
        if ready_file is not None:
            ready = {"url": server.url, "pid": os.getpid()}
            ready["started"] = launch.start_time(os.getpid()) or 0.0
            launch.write_private(ready_file, json.dumps(ready) + "\n")
        server.serve_forever(0.2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
