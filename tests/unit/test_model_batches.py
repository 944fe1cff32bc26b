"""The server that ships answers files and batches as the API that it stands in for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from workers.embedded.model_batches import Desk

FORM = "multipart/form-data; boundary=xyz"


def line(custom_id: str, **other: Any) -> str:
    body = {"model": "m", "messages": []}
    asked = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(asked | other)


def desk(seconds: float = 0.0, *left: bool) -> Desk:
    """A desk whose answers say which model was asked; `left` are the lines without one, by turn."""
    turns = iter(left)

    def answer(body: bytes) -> tuple[int, Any]:
        return 200, {"answers": json.loads(body)["model"]}

    return Desk(answer, seconds, lambda: next(turns, False))


def uploaded(at: Desk, *lines: str) -> str:
    content = "\n".join(lines)
    body = (
        '--xyz\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        '--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n'
        f"Content-Type: application/jsonl\r\n\r\n{content}\r\n--xyz--\r\n"
    )
    _, found = at.post("files", body.encode(), FORM) or (0, {})
    assert (
        found["filename"] == "a.jsonl"
        and at.get(f"files/{found['id']}/content") == content.encode()
    )
    return str(found["id"])


def made(at: Desk, file_id: str) -> dict[str, Any]:
    asked = {
        "input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h",
        "metadata": {"a": "b"},
    }  # fmt: skip
    _, found = at.post("batches", json.dumps(asked).encode(), "application/json") or (0, {})
    assert found["status"] == "in_progress" and found["metadata"] == {"a": "b"}
    return dict(found)


def looked(at: Desk, batch: dict[str, Any]) -> dict[str, Any]:
    found = at.get(f"batches/{batch['id']}")
    assert isinstance(found, tuple)
    return dict(found[1])


def test_a_batch_is_answered_line_by_line_and_what_is_left_has_a_file_of_its_own() -> None:
    at = desk(0.0, False, True)
    stands = looked(at, made(at, uploaded(at, line("a"), line("b"))))
    assert stands["status"] == "expired"
    assert stands["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    output = at.get(f"files/{stands['output_file_id']}/content")
    errors = at.get(f"files/{stands['error_file_id']}/content")
    assert isinstance(output, bytes) and isinstance(errors, bytes)
    answered, left = json.loads(output), json.loads(errors)
    assert answered["custom_id"] == "a" and answered["response"]["body"] == {"answers": "m"}
    assert left["custom_id"] == "b" and left["error"]["code"] == "batch_expired"
    assert looked(at, stands) == stands, "it is answered once"


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ((), "invalid_request"),
        (("no json",), "invalid_json_line"),
        ((line("a", url="/v1/embeddings"),), "invalid_request"),
        ((line("a"), line("a")), "duplicate_custom_id"),
    ],
)
def test_a_file_that_is_no_list_of_requests_makes_a_batch_that_failed(
    lines: tuple[str, ...], code: str
) -> None:
    at = desk()
    stands = looked(at, made(at, uploaded(at, *lines)))
    assert stands["status"] == "failed" and stands["output_file_id"] is None
    assert [each["code"] for each in stands["errors"]["data"]] == [code]


def test_a_batch_that_is_stopped_in_time_answers_nothing() -> None:
    at = desk(3600.0)
    batch = made(at, uploaded(at, line("a")))
    assert (at.post(f"batches/{batch['id']}/cancel", b"", "") or (0, {}))[1][
        "status"
    ] == "cancelled"
    assert looked(at, batch)["output_file_id"] is None


def test_what_is_not_there_is_no_page() -> None:
    at = desk()
    file_id = uploaded(at, line("a"))
    assert at.delete(f"files/{file_id}") and at.delete(f"files/{file_id}") is None
    for page in ("", "files/x", "files/x/content", "batches/x", "models"):
        assert at.get(page) is None
    with pytest.raises(KeyError):
        made(at, file_id)
