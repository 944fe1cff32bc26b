"""`dripfleet status --watch` on a terminal: look on one thread, draw and hear keys on another.

A look that hangs (a server stopped, a network gone) holds up neither the clock on the screen nor
the key that leaves it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from typing import Any

from workers.cli.render import ExitCode
from workers.cli.screen import Frame, Rates, drawn
from workers.cli.verdict import verdict

EVERY = 1.0
STALE = 4.0  # seconds without an answer after which it is said
BLINK = 0.1  # how soon a new size of the terminal is seen
GLANCE = 0.1  # how soon Ctrl-C is seen

View = dict[str, Any]


class Looker:
    """Looks every second, for ever; keeps the last view and what stood in the way of a newer one."""

    def __init__(self, look: Callable[[], View]) -> None:
        self.rates = Rates()
        self.fault: BaseException | None = None
        self._look = look
        self._view: View | None = None
        self._notice = ""
        self._answered = time.monotonic()
        self._changes = 0
        threading.Thread(target=self._run, name="look", daemon=True).start()

    @property
    def changes(self) -> int:
        """Grows with every look, so that one draws only what is new."""
        return self._changes

    def frame(self) -> Frame:
        """What to show now."""
        silent = time.monotonic() - self._answered
        notice = self._notice
        if not notice and silent > STALE:
            notice = "the servers do not answer"
        if notice and self._view is not None:
            notice = f"as of {silent:.0f} s ago: {notice}"
        return Frame(self._view, self.rates, notice)

    def _run(self) -> None:
        while True:
            began = time.monotonic()
            try:
                view = self._look()
            except Exception as error:
                code, sentence = verdict(error)
                if code != ExitCode.UNREACHABLE:
                    self.fault = error
                    return
                self._notice = sentence
            else:
                self._answered = time.monotonic()
                self.rates.add(self._answered, view["sent"])
                self._view, self._notice = view, ""
            self._changes += 1
            time.sleep(max(0.0, EVERY - (time.monotonic() - began)))


def watch(look: Callable[[], View]) -> None:
    """Show what `look` sees until q or Ctrl-C.

    Raises:
        Exception: what `look` raised, if it is not that a server does not answer.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(no_color="NO_COLOR" in os.environ)
    looker = Looker(look)
    shown: tuple[object, ...] = ()
    # The other screen of the terminal, written over in place: nothing is cleared, nothing flickers.
    with (
        _keys() as left,
        Live(console=console, screen=True, auto_refresh=False, redirect_stderr=False) as live,
    ):
        while True:
            if looker.fault is not None:
                raise looker.fault
            width, height = console.size
            frame = looker.frame()
            now = (width, height, looker.changes, frame.notice)
            if now != shown:
                shown = now
                lines = drawn(frame, width, height)
                live.update(Text("\n", no_wrap=True).join(lines), refresh=True)
            if left(BLINK):
                return


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Keys as they are pressed; gives a function that waits so long for one that leaves.

    Ctrl-C sets a flag here: as an exception it could be raised where Python swallows it, inside a
    finalizer say, and the screen would stay.
    """
    asked = threading.Event()
    before_term = signal.signal(signal.SIGTERM, _end)
    before_int = signal.signal(signal.SIGINT, lambda *_: asked.set())
    try:
        if not sys.stdin.isatty():
            yield asked.wait
            return
        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd)

        def left(seconds: float) -> bool:
            until = time.monotonic() + seconds
            while not asked.is_set():
                wait = min(until - time.monotonic(), GLANCE)
                if wait <= 0:
                    return False
                ready, _, _ = select.select([fd], [], [], wait)
                if ready:
                    pressed = os.read(fd, 64)
                    return not pressed or b"q" in pressed.lower()
            return True

        try:
            tty.setcbreak(fd)
            yield left
        finally:
            termios.tcsetattr(fd, termios.TCSADRAIN, before)
    finally:
        signal.signal(signal.SIGINT, before_int)
        signal.signal(signal.SIGTERM, before_term)


def _end(signum: int, frame: object) -> None:
    # By way of an exception, so that the terminal is given back as it was.
    sys.exit(128 + signum)
