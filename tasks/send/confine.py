"""Rendering in a child process under RLIMIT_AS and RLIMIT_CPU, for templates not yet trusted.

`sequence apply` renders its samples here, and so does a row that took its worker down. The child
is a fresh interpreter (never a fork of a process with threads), gets no environment but its
import path, and answers row by row, so that an explosion is told from the rows before it.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import jinja2

from tasks.errors import Permanent, Transient
from tasks.send.render import Bundle, Rendered, compile

Limit = Literal["memory", "cpu", "wall", "signal"]


@dataclass(frozen=True, slots=True)
class Fault:
    """The template raised for these variables; the child went on."""

    reason: str


@dataclass(frozen=True, slots=True)
class Exploded:
    """The render ran into a limit, or took its child down; `limit` says which."""

    reason: str
    limit: Limit


def render_confined(
    bundle: Bundle,
    variables_list: Sequence[Mapping[str, object]],
    *,
    memory_mb: int = 512,
    cpu_s: float = 2,
    wall_s: float = 5,
) -> list[Rendered | Fault | Exploded]:
    """Render `bundle` once for each of `variables_list`, in that order, in a child.

    `memory_mb` is address space above what the interpreter has mapped when it begins; `cpu_s`
    holds for each row, rounded up to whole seconds by the kernel; `wall_s` for each child. A
    child that dies is followed by another for the rows behind the one that killed it.

    Raises:
        Transient: no child could be started, or none came up within `wall_s`.
    """
    results: list[Rendered | Fault | Exploded] = []
    while len(results) < len(variables_list):
        rows = variables_list[len(results) :]
        asked = {
            "bundle": Bundle(bundle.name, bundle.parts).to_json(),
            "rows": [dict(row) for row in rows],
            "memory": memory_mb << 20,
            "cpu": cpu_s,
        }
        answers, death = _ask(json.dumps(asked).encode(), wall_s)
        if not answers:
            raise Transient("a render child did not start; look at the machine's memory and load")
        results += [_read(answer) for answer in answers[1:]]
        if len(answers) <= len(rows):
            results.append(_explosion(death, memory_mb, cpu_s, wall_s))
    return results


def _ask(asked: bytes, wall_s: float) -> tuple[list[bytes], int | None]:
    """The child's whole lines, and how it ended: its return code, None if it ran out of time."""
    # The folder of `tasks` and that of jinja2, and neither `site` nor the caller's folder: the
    # child starts in half the time, and imports what this process has imported.
    paths = [Path(__file__).parents[2], Path(jinja2.__file__).parents[1]]
    try:
        child = subprocess.Popen(
            [sys.executable, "-S", "-P", "-m", "tasks.send.confine"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a traceback would quote the variables
            env={"PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONUTF8": "1"},
            start_new_session=True,
        )
    except OSError as error:
        raise Transient(
            f"a render child did not start ({type(error).__name__}); look at the machine's load"
        ) from None
    with child:
        try:
            told, _ = child.communicate(asked, timeout=wall_s)
            code: int | None = child.returncode
        except subprocess.TimeoutExpired:
            child.kill()
            told, _ = child.communicate()
            code = None
        except BaseException:
            child.kill()
            raise
    return told.split(b"\n")[:-1], code


def _read(answer: bytes) -> Rendered | Fault | Exploded:
    told = json.loads(answer)
    if "fault" in told:
        return Fault(told["fault"])
    if "memory" in told:
        return Exploded(told["memory"], "memory")
    return Rendered(told["subject"], told["text"], told["html"])


def _explosion(code: int | None, memory_mb: int, cpu_s: float, wall_s: float) -> Exploded:
    move = "make the template smaller"
    if code is None:
        return Exploded(f"the render took over {wall_s:g} s; {move}", "wall")
    if code == -signal.SIGXCPU:
        return Exploded(f"the render took over {math.ceil(cpu_s)} s of CPU; {move}", "cpu")
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
    return Exploded(
        f"the render's process {how} (limits: {memory_mb} MB, {cpu_s:g} s of CPU); {move}", "signal"
    )


def _mapped() -> int:
    """Bytes of address space in use now; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _limit(kind: int, soft: int) -> None:
    """Set a soft limit; never above the hard one, and quietly absent where there is no such."""
    hard = resource.getrlimit(kind)[1]
    soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
    try:
        resource.setrlimit(kind, (soft, hard))
    except (ValueError, OSError):  # macOS refuses RLIMIT_AS; time still holds
        return


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """The child's side: one line when ready, then one for each row."""
    asked = json.loads(requests.read())
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_AS, _mapped() + asked["memory"])

    def answer(told: Mapping[str, object]) -> None:
        answers.write(json.dumps(told).encode() + b"\n")
        answers.flush()

    answer({"ready": True})
    bundle = Bundle.from_json(asked["bundle"])
    for row in asked["rows"]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(
            resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + math.ceil(asked["cpu"])
        )
        try:
            mail = compile(bundle).render(row)
        except Permanent as error:
            short = isinstance(error.__context__, MemoryError)
            answer({"memory" if short else "fault": str(error)})
        else:
            answer({"subject": mail.subject, "text": mail.text, "html": mail.html})


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
