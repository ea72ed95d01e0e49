"""Output of a command: a live dashboard, log lines, JSON, or nothing."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, is_dataclass
from typing import Any, Protocol, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live

from cifarctl.events import Event, Notice
from cifarctl.settings import terminal_environment
from cifarctl.ui.text import printable

EventT = TypeVar("EventT", bound=Event)
EventIn = TypeVar("EventIn", bound=Event, contravariant=True)

REFRESH_PER_SECOND = 8  # faster is not visible, and takes CPU time from the predictor


class View(Protocol[EventIn]):
    """A dashboard and log of one flow's events."""

    def update(self, event: EventIn) -> None:
        """Update the state from an event."""

    def render(self) -> RenderableType:
        """The current dashboard."""

    def lines(self, event: EventIn) -> Iterable[str]:
        """The log lines of an event; called after `update`."""


def console(*, stderr: bool) -> Console:
    """A console that prints text verbatim: no markup, emoji codes or highlighting."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, _environ=terminal_environment())


class Output:
    """One command's output. With `as_json`, stdout carries only the result; human-readable output goes to stderr."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False, dashboard: bool = True) -> None:
        self.as_json, self.quiet = as_json, quiet
        self.console = console(stderr=as_json)
        self.live = dashboard and not quiet and sys.stdout.isatty() and self.console.is_terminal

    def show(self, stream: Iterator[EventT], view: View[EventT]) -> Iterator[EventT]:
        """Yield the events and show each one; always closes the stream at the end."""
        try:
            yield from self._dashboard(stream, view) if self.live else self._log(stream, view)
        finally:
            close = getattr(stream, "close", None)
            if close is not None:
                close()

    def drain(self, stream: Iterator[EventT], view: View[EventT]) -> EventT | None:
        """Show all events and return the last one: the flow's result, unless it was interrupted."""
        last = None
        for event in self.show(stream, view):
            last = event
        return last

    def say(self, text: RenderableType) -> None:
        """Print human-readable output; a string is escaped, any other renderable is printed as it is."""
        if not self.quiet:
            # Wrap lines on a terminal, not in a file.
            unwrapped = isinstance(text, str) and not self.console.is_terminal
            self.console.print(printable(text) if isinstance(text, str) else text, soft_wrap=unwrapped)

    def warn(self, text: str) -> None:
        """Print a warning on stderr, also with --quiet."""
        stderr = console(stderr=True)
        stderr.print(printable(text), style="bold yellow", soft_wrap=not stderr.is_terminal)

    def result(self, document: Any, summary: RenderableType | None = None) -> None:
        """Print the command's result: `document` as JSON on stdout, or the human-readable `summary`."""
        if self.as_json:
            print(json.dumps(to_json(document)))  # noqa: T201  the one place that writes JSON
        elif summary is not None:
            self.say(summary)

    def _dashboard(self, stream: Iterator[EventT], view: View[EventT]) -> Iterator[EventT]:
        lock = threading.Lock()  # the refresh thread reads the view while events change it

        def renderable() -> RenderableType:
            with lock:
                return Group(view.render(), "")  # the empty line is where the terminal echoes ^C

        notices = []
        try:
            with Live(get_renderable=renderable, console=self.console, refresh_per_second=REFRESH_PER_SECOND) as live:
                for event in stream:
                    with lock:
                        view.update(event)
                    if isinstance(event, Notice):
                        notices.append(notice_line(event))
                    yield event
                live.refresh()
        finally:  # the dashboard may have truncated them
            for notice in dict.fromkeys(notices[-5:]):
                self.say(notice)

    def _log(self, stream: Iterator[EventT], view: View[EventT]) -> Iterator[EventT]:
        for event in stream:
            view.update(event)
            for line in view.lines(event):
                self.log(line)
            yield event

    def log(self, line: str) -> None:
        """Print one log line, never wrapped or coloured, so that grep can search it."""
        if not self.quiet:
            self.console.print(printable(line), soft_wrap=True)


def to_json(value: Any) -> Any:
    """Convert dataclasses to dictionaries, recursively."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def notice_line(event: Notice) -> str:
    """The log line of a notice."""
    return f"note: {event.message}"
