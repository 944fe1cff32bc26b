"""The screen of `dripfleet status --watch`: exactly as many lines as the terminal has, none wider.

Values in, lines out: what is drawn depends on the view, the rates and the size alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from textwrap import wrap
from typing import Any

from rich.text import Text

from tasks.names import POOLS
from workers.cli.advice import CANARY_LATE, TICK_LATE, advice, ago
from workers.cli.render import number

BARS = " ▁▂▃▄▅▆▇█"
SMALLEST = (40, 10)
LEFT = 46  # columns of the pools' table; the ticks stand beside it
TALLEST = 8  # rows of the chart
HISTORY = 600  # looks


class Rates:
    """Mails sent a second, from one look to the next, and over the last seconds."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque(maxlen=HISTORY)

    def add(self, at: float, sent: int) -> None:
        """Take a look: a clock in seconds, and all that was sent until then."""
        self._looks.append((at, sent))

    def over(self, seconds: float) -> float | None:
        """Mails a second over that time, or as long as there were looks; None: not two yet."""
        if len(self._looks) < 2:
            return None
        last_at, last = self._looks[-1]
        at, sent = next(look for look in self._looks if look[0] >= last_at - seconds - 0.5)
        return max(0.0, (last - sent) / (last_at - at)) if last_at > at else 0.0

    def each(self) -> list[float]:
        """The rate between each look and the next, oldest first."""
        looks = list(self._looks)
        return [
            max(0.0, (b[1] - a[1]) / (b[0] - a[0])) if b[0] > a[0] else 0.0
            for a, b in pairwise(looks)
        ]


@dataclass(frozen=True, slots=True)
class Frame:
    """What a screen shows: the last `view` (None: none yet), and what stands in its way now."""

    view: Mapping[str, Any] | None
    rates: Rates
    notice: str = ""


def drawn(frame: Frame, width: int, height: int) -> list[Text]:
    """Exactly `height` lines of at most `width` columns."""
    if width < SMALLEST[0] or height < SMALLEST[1]:
        lines = [Text(f"at least {SMALLEST[0]}x{SMALLEST[1]}, please  (q)")]
    elif frame.view is None:
        style = "red" if frame.notice else "dim"
        lines = [Text(line, style=style) for line in wrap(frame.notice or "looking …", width)]
    else:
        lines = _lines(frame, frame.view, width, height)
    lines = [*lines[:height], *[Text("")] * (height - len(lines))]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def chart(values: Sequence[float], width: int, rows: int) -> list[str]:
    """Bars of the newest `width` values, the tallest as high as `rows`; top row first."""
    shown = list(values)[-width:]
    most = max(shown, default=0.0) or 1.0
    # A rate that is not zero is seen, however small beside the others.
    heights = [max(round(v / most * rows * 8), 1) if v > 0 else 0 for v in shown]
    return [
        "".join(BARS[min(max(h - 8 * row, 0), 8)] for h in heights).rjust(width)
        for row in reversed(range(rows))
    ]


def _lines(frame: Frame, view: Mapping[str, Any], width: int, height: int) -> list[Text]:
    streams, sequences = _streams(view), _sequences(view)
    told = advice(view)
    footer = _footer(view)
    pools = _beside(_pools(view), _ticks(view), width)
    # What must be there; the rest of the height goes to sequences, faults, the chart, and air.
    spare = height - 3 - len(pools) - len(streams) - 1 - len(footer)
    airy = spare >= len(sequences) + min(len(told), 6) + 8
    gap = [Text("")] if airy else []
    spare -= 4 * len(gap)
    faults_wanted = 1 + max(len(told), 1)
    room = max(spare - min(faults_wanted, max(spare // 2, 3)), 2)
    sequences = _cut(sequences, room)
    spare -= len(sequences)
    faults = _faults(told, max(spare, 1), width)
    rows = min(TALLEST, 1 + max(spare - len(faults), 0)) if airy else 1
    # The chart took a line of those above.
    body = [
        *_head(frame, view, width, rows),
        *gap,
        *pools,
        *gap,
        *streams,
        *gap,
        *sequences,
        *gap,
        *faults,
    ]
    keep = height - len(footer)
    return [*body[:keep], *[Text("")] * (keep - len(body)), *footer]


def _head(frame: Frame, view: Mapping[str, Any], width: int, rows: int) -> list[Text]:
    least = "" if view["exact"] else "≥ "
    doubt, failed = view["in_doubt"], view["failed"]
    first = Text.assemble(
        ("dripfleet", "bold"),
        f"  {str(view['at'])[11:19]} UTC   ",
        f"sent {number(view['sent'])}   due {least}{number(view['due'])}   ",
        (f"in doubt {number(doubt)}", "yellow" if doubt else ""),
        "   ",
        (f"failed {number(failed)}", "red" if failed else ""),
    )
    if frame.notice:
        first = Text(frame.notice, style="bold red")
    second = Text(
        f"enrolled {number(view['enrolled'])}   active {number(view['active'])}   "
        f"to plan {least}{number(view['to_plan'])}   not sent {number(view['not_sent'])}",
        style="dim",
    )
    shown = "   ".join(
        f"{seconds} s: {'–' if rate is None else f'{rate:,.0f}'.replace(',', ' ')}/s"
        for seconds, rate in ((10, frame.rates.over(10)), (60, frame.rates.over(60)))
    )
    label = f"rate  {shown}  "
    label = label.ljust(34)
    bars = chart(frame.rates.each(), max(width - len(label), 8), rows)
    lines = [Text.assemble(" " * len(label), (row, "green")) for row in bars[:-1]]
    lines.append(Text.assemble((label, "bold"), (bars[-1], "green")))
    return [first, second, *lines]


def _pools(view: Mapping[str, Any]) -> list[Text]:
    queues = view["queues"] if isinstance(view["queues"], Mapping) else {}
    seen = {row["pool"]: row for row in view["pools"]}
    rows = []
    for pool in queues or seen:
        row = seen.get(pool)
        if row is None and pool.partition("@")[0] not in POOLS:
            # A second queue of a pool: nobody answers a canary there, and empty it says nothing.
            if queues[pool]:
                rows.append(([pool, "", "", number(queues[pool])], ""))
            continue
        late = row is not None and row["seen_ago"] > CANARY_LATE
        cells = [
            pool,
            number(row["workers"]) if row else "0",
            ago(row["seen_ago"]) if row else "never",
            number(queues[pool]) if pool in queues else "?",
        ]
        rows.append((cells, "red" if late else ""))
    return _table(("pool", "workers", "canary", "queue"), rows)


def _ticks(view: Mapping[str, Any]) -> list[Text]:
    rows = [
        ([row["name"], f"{ago(row['ago'])} ago"], "red" if row["ago"] > TICK_LATE else "")
        for row in view["ticks"]
    ]
    return _table(("tick", "done"), rows or [(["none was ever answered", ""], "dim")])


def _streams(view: Mapping[str, Any]) -> list[Text]:
    least = "" if view["exact"] else "≥"
    names = ("stream", "due", "oldest", "later", "working", "armed", "in doubt", "")
    rows = []
    for row in view["streams"]:
        paused = row["paused_at"] is not None
        cells = [row["key"], least + number(row["due"]), ago(row["oldest_due"])]
        cells += [number(row[name]) for name in ("later", "working", "armed", "in_doubt")]
        rows.append(([*cells, "paused" if paused else ""], "yellow" if paused else ""))
    return _table(names, rows, last_left=True)


def _sequences(view: Mapping[str, Any]) -> list[Text]:
    names = ("sequence", "active", "waiting", "held", "sent", "failed", "not sent", "")
    counts = ("active", "waiting", "held", "sent", "failed", "not_sent")
    rows = []
    for row in view["sequences"]:
        paused = row["paused_at"] is not None
        cells = [row["key"], *(number(row[name]) for name in counts)]
        state = "paused" if paused else "drains" if row.get("draining_since") else ""
        rows.append(([*cells, state], "yellow" if state else ""))
    return _table(names, rows, last_left=True)


def _faults(told: Sequence[Any], room: int, width: int) -> list[Text]:
    if not told:
        return [Text("nothing is the matter", style="green")]
    lines = []
    spare = room - 1 - len(told)
    for one in told:
        says = "".join(c if c.isprintable() else " " for c in one.says)
        move, style = f"  → {one.next}", "red" if one.grave else ""
        if len(says) + len(move) > width and spare > 0:
            spare -= 1
            lines += [Text(says, style=style), Text(f"  {move}", style="cyan")]
            continue
        # The next move is what somebody came for: the sentence gives way to it.
        says = _short(says, max(width - len(move), 20))
        lines.append(Text.assemble((says, style), (move, "cyan")))
    head = "what is the matter (with mails: of the newest 2 000), and the next move"
    return [Text(head, style="dim"), *_cut(lines, room - 1)]


def _footer(view: Mapping[str, Any]) -> list[Text]:
    flower = f"Flower {view['flower']}   " if view["flower"] else ""
    marks = "" if view["exact"] and view["people_exact"] else "   ≥ at least"
    return [Text(f"{flower}q or Ctrl-C leaves{marks}", style="dim")]


def _table(
    names: Sequence[str], rows: Sequence[tuple[Sequence[str], str]], *, last_left: bool = False
) -> list[Text]:
    widths = [
        max(len(name), *(len(cells[i]) for cells, _ in rows)) if rows else len(name)
        for i, name in enumerate(names)
    ]
    widths[0] = min(widths[0], 24)
    left = {0, len(names) - 1} if last_left else {0}

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            _short(cell, size).ljust(size) if i in left else cell.rjust(size)
            for i, (cell, size) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    return [Text(line(names), style="dim"), *(Text(line(c), style=s) for c, s in rows)]


def _beside(one: list[Text], two: list[Text], width: int) -> list[Text]:
    """Two tables side by side, as far as there is room."""
    left = max([LEFT, *(len(line) for line in one)])
    if width < left + 24:
        return one
    lines = []
    for i in range(max(len(one), len(two))):
        line = one[i].copy() if i < len(one) else Text("")
        if i < len(two):
            line.pad_right(left - len(line))
            line.append_text(two[i])
        lines.append(line)
    return lines


def _cut(lines: list[Text], room: int) -> list[Text]:
    """As many as there is room for, the last one saying how many are missing."""
    if len(lines) <= room:
        return lines
    if room < 1:
        return []
    return [*lines[: room - 1], Text(f"… {len(lines) - room + 1} more", style="dim")]


def _short(value: str, size: int) -> str:
    return value if len(value) <= size else f"{value[: max(size - 1, 0)]}…"
