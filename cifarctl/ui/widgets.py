"""Building blocks of dashboards: numbers, bars, sparklines, tables."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cifarctl import times
from cifarctl.ui.text import printable

BLOCKS = "▁▂▃▄▅▆▇█"
ACCENT = "cyan"


def percent(share: float | None) -> str:
    """``76.1 %``, or a dash for None."""
    return "–" if share is None else f"{share:.1%}".replace("%", " %")


def duration(seconds: float) -> str:
    """``1:02:03`` or ``02:03``."""
    if not math.isfinite(seconds):
        return "–"
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def rate(value: float | None, unit: str) -> str:
    """A rate per second with two or more significant digits, or a dash for None."""
    if value is None or not math.isfinite(value):
        return f"– {unit}/s"
    if value >= 10 or value == 0:
        return f"{value:,.0f} {unit}/s"
    return f"{value:.2f} {unit}/s" if value >= 0.1 else f"{value:.2g} {unit}/s"


def milliseconds(value: float | None) -> str:
    """A latency, or a dash for None."""
    if value is None:
        return "–"
    if value < 1000:
        return f"{value:.1f} ms"
    return f"{value / 1000:,.1f} s"


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers with consecutive ones as ranges: ``0–2, 5``; ``none`` if there are none."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ", ".join("–".join(map(str, part)) for part in parts) or "none"


def bar(share: float, width: int = 24) -> Text:
    """A progress bar for a fraction of 0 to 1."""
    full = round(min(max(share, 0.0), 1.0) * width)
    return Text.assemble(("█" * full, ACCENT), ("░" * (width - full), "dim"))


def sparkline(values: Sequence[float], width: int = 32, low: float = 0.0, high: float = 1.0) -> Text:
    """The last `width` values as block characters; the fixed bounds make sparklines comparable."""
    scaled = [(min(max(value, low), high) - low) / (high - low) for value in list(values)[-width:]]
    blocks = "".join(BLOCKS[min(len(BLOCKS) - 1, int(value * len(BLOCKS)))] for value in scaled)
    return Text(blocks.ljust(width), style=ACCENT)


def cell(value: RenderableType) -> RenderableType:
    """A cell of a table or dashboard: untrusted text is escaped, and no text is parsed as markup."""
    if isinstance(value, str):
        return Text(printable(value))
    if isinstance(value, Text) and printable(value.plain) != value.plain:
        escaped = value.blank_copy()
        for character in value.divide(range(1, len(value))):
            character.plain = printable(character.plain)
            escaped.append_text(character)
        return escaped
    return value


def paragraph(*lines: str) -> Group:
    """Several lines in one table cell."""
    return Group(*map(cell, lines))


class Cells(Table):
    """A table whose cells and headings are escaped by `cell`."""

    def __init__(self, *, title: str | None = None) -> None:
        super().__init__(box=box.SIMPLE_HEAD, pad_edge=False, title=title)

    def column(self, name: str, *, right: bool = False, wrap: bool = False) -> None:
        """Add a column; text that does not fit is folded anywhere, or between words with `wrap`."""
        self.add_column(cell(name), justify="right" if right else "left", no_wrap=not wrap, overflow="fold")

    def row(self, *cells: RenderableType, style: str = "") -> None:
        """Add a row."""
        self.add_row(*map(cell, cells), style=style)


def facts(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    """A table of two columns: names and values."""
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(style="dim", no_wrap=True, width=13)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for name, value in rows:
        table.add_row(cell(name), cell(value))
    return table


def frame(title: str, *parts: RenderableType, subtitle: str = "") -> Panel:
    """The frame around a dashboard."""
    return Panel(
        Group(*parts),
        title=Text(printable(title), style="bold"),
        title_align="left",
        subtitle=Text(printable(subtitle)) if subtitle else None,
        subtitle_align="right",
        border_style=ACCENT,
        padding=(0, 1),
    )


class Log:
    """The last few log lines, each with the time of day and its zone."""

    def __init__(self, lines: int, now: Callable[[], float] = time.time) -> None:
        self._lines: deque[str] = deque(maxlen=lines)
        self._now = now

    def add(self, line: str) -> None:
        """Add a line."""
        self._lines.append(f"{times.clock(self._now())}  {printable(line)}")

    def render(self, height: int | None = None) -> RenderableType:
        """The newest lines, padded to a constant height so that the dashboard does not jump; default: all lines."""
        height = height or self._lines.maxlen or 0
        newest = list(self._lines)[-height:]
        rows = [*newest, *[""] * (height - len(newest))]
        return Text("\n".join(rows), no_wrap=True, overflow="ellipsis", style="dim")


class Rate:
    """Events per second over the last `window` seconds."""

    def __init__(self, window: float = 5.0, now: Callable[[], float] = time.monotonic) -> None:
        self._window, self._now = window, now
        self._marks: deque[tuple[float, int]] = deque()
        self._total = 0

    def add(self, count: int) -> None:
        """`count` more happened now."""
        self._total += count
        self._marks.append((self._now(), self._total))
        while len(self._marks) > 2 and self._marks[0][0] < self._marks[-1][0] - self._window:
            self._marks.popleft()

    @property
    def value(self) -> float | None:
        """The current rate; None before the second `add`."""
        if len(self._marks) < 2:
            return None
        (first, before), (_, after) = self._marks[0], self._marks[-1]
        return (after - before) / max(self._now() - first, 1e-9)


class Every:
    """A rate limiter: returns True at most once per `seconds`."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._now = seconds, now
        self._last = -math.inf

    def __call__(self) -> bool:
        """Whether the interval has passed; if so, the next one begins."""
        if self._now() - self._last < self._seconds:
            return False
        self._last = self._now()
        return True
