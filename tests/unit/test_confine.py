"""A render in a child under limits: what it answers, and how it says that it died."""

from __future__ import annotations

import signal
import subprocess
import threading
from typing import Any, ClassVar

import pytest

from tasks.errors import Transient
from tasks.send.confine import Exploded, Fault, render_confined
from tasks.send.render import Bundle, Rendered, compile

# Within the budget of work, yet dear: comparing lists of lists costs by their outer length alone.
SLOW = """
{% set a = [[1] * 3000] * 3000 %}{% set b = [[1] * 3000] * 3000 %}
{% if subscriber.slow %}{% for i in range(5000) %}{% if a == b %}{% endif %}{% endfor %}{% endif %}
"""
BIG = "{{ ([1] * (4900000 if subscriber.big else 1)) | length }}"


def bundle(body: str) -> Bundle:
    return Bundle("test/mail", {"subject.txt": "s", "body.txt": body})


def row(**subscriber: object) -> dict[str, object]:
    return {"subscriber": subscriber}


class Child(subprocess.Popen[bytes]):
    """A real child that keeps the environment it was given."""

    started: ClassVar[list[Child]] = []

    def __init__(self, args: list[str], *, env: dict[str, str], **kwargs: Any) -> None:
        self.env = env
        self.started.append(self)
        super().__init__(args, env=env, **kwargs)


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[Child]:
    monkeypatch.setattr(Child, "started", [])
    monkeypatch.setattr(subprocess, "Popen", Child)
    return Child.started


def test_a_confined_render_is_the_same_as_a_free_one() -> None:
    mail = bundle("{{ subscriber.first_name }}, grüße 👩🏽‍🚀\n")
    rows = [row(first_name="Zoë"), row(first_name="שלום")]
    assert render_confined(mail, rows) == [compile(mail).render(each) for each in rows]


def test_nothing_asked_starts_nothing() -> None:
    assert render_confined(bundle("x"), []) == []


def test_a_template_that_raises_fails_its_row_alone() -> None:
    first, second, third = render_confined(
        bundle("{{ 6 // subscriber.n }}"), [row(n=2), row(n=0), row(n=3)]
    )
    assert first == Rendered("s", "3", None) and third == Rendered("s", "2", None)
    assert isinstance(second, Fault)
    assert second.reason.startswith("test/mail/body.txt line 1: it raised ZeroDivisionError")


def test_what_is_no_template_is_a_fault_of_every_row() -> None:
    results = render_confined(bundle("{% if %}"), [row(), row()])
    assert [type(each) for each in results] == [Fault, Fault]


def test_memory_beyond_the_limit_is_told_as_such() -> None:
    before, exploded, after = render_confined(
        bundle(BIG), [row(big=False), row(big=True), row(big=False)], memory_mb=32
    )
    assert before == after == Rendered("s", "1", None)
    assert isinstance(exploded, Exploded) and exploded.limit == "memory"
    # The very same row is well with the room that it asks for.
    assert render_confined(bundle(BIG), [row(big=True)]) == [Rendered("s", "4900000", None)]


def test_cpu_beyond_the_limit_kills_the_child_and_not_the_rows_around_it() -> None:
    before, exploded, after = render_confined(
        bundle(SLOW), [row(slow=False), row(slow=True), row(slow=False)], cpu_s=1, wall_s=60
    )
    assert isinstance(before, Rendered) and before == after
    assert isinstance(exploded, Exploded) and exploded.limit == "cpu"
    assert "over 1 s of CPU" in exploded.reason


def test_a_child_that_takes_too_long_is_killed(children: list[Child]) -> None:
    (exploded,) = render_confined(bundle(SLOW), [row(slow=True)], cpu_s=300, wall_s=4)
    assert exploded == Exploded("the render took over 4 s; make the template smaller", "wall")
    assert [child.returncode for child in children] == [-signal.SIGKILL]


def test_a_child_that_never_came_up_is_not_the_fault_of_the_row() -> None:
    with pytest.raises(Transient, match="did not start"):
        render_confined(bundle("x"), [row()], wall_s=0.001)


def test_a_child_learns_no_secret_of_this_process(
    monkeypatch: pytest.MonkeyPatch, children: list[Child]
) -> None:
    monkeypatch.setenv("DRIPFLEET_SECRET_TOKENS", "hush")
    assert render_confined(bundle("x"), [row()]) == [Rendered("s", "x", None)]
    assert [set(child.env) for child in children] == [{"PYTHONPATH", "PYTHONUTF8"}]


def test_it_works_beside_other_threads() -> None:
    results: list[object] = []
    threads = [
        threading.Thread(target=lambda: results.extend(render_confined(bundle("x"), [row()])))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [Rendered("s", "x", None)] * 3
