"""Files and batches of the server that ships, as OpenAI's Batch API has them; kept while it runs.

A batch is ``in_progress`` for as long as the server was told, then each of its lines is answered as a
single call would be, faults and garbage included. Lines that a share was told to leave make it
``expired``. A file may have 200 MB and a batch 50 000 lines, as there.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

LARGEST: Final = 200_000_000
MOST_LINES: Final = 50_000
ENDPOINT: Final = "/v1/chat/completions"

Reply = tuple[int, Any]
"""A status and a JSON object."""
Answered = Callable[[bytes], Reply]
"""A single call: the body of a request → its answer."""


@dataclass
class File:
    """A file; `content` is a line a request, or a line an answer."""

    id: str
    name: str
    purpose: str
    content: bytes
    created: int = field(default_factory=lambda: int(time.time()))

    def shown(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "id": self.id, "object": "file", "bytes": len(self.content), "created_at": self.created,
            "filename": self.name, "purpose": self.purpose, "status": "processed",
        }  # fmt: skip


@dataclass
class Batch:
    """A batch; its lines are answered at the first look after `due`."""

    id: str
    input_file: str
    metadata: Mapping[str, str]
    due: float
    status: str = "in_progress"
    created: int = field(default_factory=lambda: int(time.time()))
    counts: dict[str, int] = field(
        default_factory=lambda: {"total": 0, "completed": 0, "failed": 0}
    )
    output_file: str | None = None
    error_file: str | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)

    def shown(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "id": self.id, "object": "batch", "endpoint": ENDPOINT, "completion_window": "24h",
            "status": self.status, "input_file_id": self.input_file, "metadata": dict(self.metadata),
            "created_at": self.created, "request_counts": dict(self.counts),
            "output_file_id": self.output_file, "error_file_id": self.error_file,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
        }  # fmt: skip


class Desk:
    """The files and batches of one server; called from many threads.

    Args:
        answer: how one request is answered.
        seconds: for which a batch is in progress.
        unanswered: whether the next line is one that is left when the time is up.
    """

    def __init__(self, answer: Answered, seconds: float, unanswered: Callable[[], bool]) -> None:
        self._answer = answer
        self._seconds = seconds
        self._unanswered = unanswered
        self._lock = threading.RLock()
        self._files: dict[str, File] = {}
        self._batches: dict[str, Batch] = {}

    def get(self, path: str) -> Reply | bytes | None:
        """Answer a GET below ``/v1/``; bytes are the content of a file, None: no such page."""
        with self._lock:
            match path.split("/"):
                case ["files"]:
                    return 200, _listed([each.shown() for each in self._files.values()])
                case ["files", id_] if id_ in self._files:
                    return 200, self._files[id_].shown()
                case ["files", id_, "content"] if id_ in self._files:
                    return self._files[id_].content
                case ["batches"]:
                    return 200, _listed([self._looked(b).shown() for b in self._batches.values()])
                case ["batches", id_] if id_ in self._batches:
                    return 200, self._looked(self._batches[id_]).shown()
        return None

    def post(self, path: str, body: bytes, content_type: str) -> Reply | None:
        """Answer a POST below ``/v1/``; None: no such page.

        Raises:
            KeyError, TypeError, ValueError: the request is of another form.
        """
        match path.split("/"):
            case ["files"]:
                parts = _parts(body, content_type)
                name, content = parts["file"]
                return 200, self._keep(name, parts["purpose"][1].decode(), content).shown()
            case ["batches"]:
                asked = json.loads(body)
                if asked["endpoint"] != ENDPOINT or asked["completion_window"] != "24h":
                    raise ValueError("endpoint or completion_window")
                with self._lock:
                    source = self._files[asked["input_file_id"]].id
                    metadata, due = asked.get("metadata") or {}, time.monotonic() + self._seconds
                    made = Batch(f"batch_{uuid.uuid4().hex}", source, metadata, due)
                    self._batches[made.id] = made
                    return 200, made.shown()
            case ["batches", id_, "cancel"] if id_ in self._batches:
                with self._lock:
                    batch = self._looked(self._batches[id_])
                    if batch.status == "in_progress":
                        batch.status = "cancelled"
                    return 200, batch.shown()
        return None

    def delete(self, path: str) -> Reply | None:
        """Answer a DELETE below ``/v1/``; None: no such page."""
        with self._lock:
            match path.split("/"):
                case ["files", id_] if self._files.pop(id_, None) is not None:
                    return 200, {"id": id_, "object": "file", "deleted": True}
        return None

    def _keep(self, name: str, purpose: str, content: bytes) -> File:
        with self._lock:
            made = File(f"file-{uuid.uuid4().hex}", name, purpose, content)
            self._files[made.id] = made
            return made

    def _looked(self, batch: Batch) -> Batch:
        """The batch as it stands now: its lines are answered once its time is up."""
        if batch.status == "in_progress" and time.monotonic() >= batch.due:
            source = self._files.get(batch.input_file)
            lines = source.content.splitlines() if source is not None else []
            fault = _fault_of(lines)
            if fault is not None:
                batch.status, batch.errors = "failed", [fault]
            else:
                self._answer_all(batch, lines)
        return batch

    def _answer_all(self, batch: Batch, lines: list[bytes]) -> None:
        output: list[bytes] = []
        errors: list[bytes] = []
        for line in lines:
            asked = json.loads(line)
            if self._unanswered():
                batch.status = "expired"
                said = {"code": "batch_expired", "message": "not answered within its window"}
                errors.append(_line(asked["custom_id"], None, said))
                continue
            code, value = self._answer(json.dumps(asked["body"]).encode())
            made = {"status_code": code, "request_id": uuid.uuid4().hex, "body": value}
            (output if code == 200 else errors).append(_line(asked["custom_id"], made, None))
        batch.counts = {"total": len(lines), "completed": len(output), "failed": len(errors)}
        if output:
            batch.output_file = self._keep("output.jsonl", "batch_output", b"".join(output)).id
        if errors:
            batch.error_file = self._keep("errors.jsonl", "batch_output", b"".join(errors)).id
        if batch.status == "in_progress":
            batch.status = "completed"


def _fault_of(lines: list[bytes]) -> dict[str, Any] | None:
    """Why a file of requests is no batch, as the API says it."""
    if not 1 <= len(lines) <= MOST_LINES:
        return {"code": "invalid_request", "message": f"1 to {MOST_LINES} lines, not {len(lines)}"}
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        try:
            asked = json.loads(line)
            known = asked["method"] == "POST" and asked["url"] == ENDPOINT and asked["body"]
            fresh = asked["custom_id"] not in seen
        except (ValueError, KeyError, TypeError):
            return {"code": "invalid_json_line", "message": "no request", "line": number}
        if not known or not fresh:
            code = "invalid_request" if fresh else "duplicate_custom_id"
            return {"code": code, "message": "not to be answered", "line": number}
        seen.add(asked["custom_id"])
    return None


def _line(custom_id: str, response: Any, error: Any) -> bytes:
    value = {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": custom_id}
    return json.dumps(value | {"response": response, "error": error}).encode() + b"\n"


def _listed(found: list[dict[str, Any]]) -> dict[str, Any]:
    """A whole list, the newest first: there are never more than a few."""
    found = found[::-1]
    return {
        "object": "list", "data": found, "has_more": False,
        "first_id": found[0]["id"] if found else None, "last_id": found[-1]["id"] if found else None,
    }  # fmt: skip


def _parts(body: bytes, content_type: str) -> dict[str, tuple[str, bytes]]:
    """The fields of a form (RFC 7578): name → file's name and content."""
    boundary = content_type.partition("boundary=")[2].strip('"').encode()
    if not boundary:
        raise ValueError("no form")
    found: dict[str, tuple[str, bytes]] = {}
    for part in body.split(b"--" + boundary)[1:-1]:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        said = head.decode("utf-8", "replace")
        name = said.partition(' name="')[2].partition('"')[0]
        file_name = said.partition(' filename="')[2].partition('"')[0]
        found[name] = file_name, content.removesuffix(b"\r\n")
    return found
