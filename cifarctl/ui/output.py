"""Where a command's words go: a live dashboard, plain lines, JSON, or nothing."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, is_dataclass
from typing import Any, Protocol, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live

from cifarctl.events import Event, Notice
from cifarctl.ui.text import printable

EventT = TypeVar("EventT", bound=Event)
EventIn = TypeVar("EventIn", bound=Event, contravariant=True)

#: Where the environment names less, it counts as none: in fewer columns nothing can be read.
LEAST = {"COLUMNS": 20, "LINES": 1}
REFRESH = 8  # a second; more is not seen, and costs the predictor its time


class View(Protocol[EventIn]):
    """A reader of one flow's events."""

    def update(self, event: EventIn) -> None:
        """Take in what happened."""

    def render(self) -> RenderableType:
        """The dashboard as things stand."""

    def lines(self, event: EventIn) -> Iterable[str]:
        """What a log says of the event, after `update`."""


def console(*, stderr: bool) -> Console:
    """A console that takes text as it is; a width or height in the environment counts where it can be one."""
    environment = {name: value for name, value in os.environ.items() if name not in LEAST or _is_size(name, value)}
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, _environ=environment)


def _is_size(name: str, value: str) -> bool:
    return re.fullmatch("[0-9]{1,4}", value) is not None and int(value) >= LEAST[name]


class Output:
    """One command's output. With `as_json` stdout carries the result alone and people read stderr."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False, dashboard: bool = True) -> None:
        self.as_json, self.quiet = as_json, quiet
        self.console = console(stderr=as_json)
        self.live = dashboard and not quiet and sys.stdout.isatty() and self.console.is_terminal

    def show(self, stream: Iterator[EventT], view: View[EventT]) -> Iterator[EventT]:
        """Pass the events on, each shown on its way; closes the stream at the end, whatever happens."""
        try:
            yield from self._dashboard(stream, view) if self.live else self._log(stream, view)
        finally:
            close = getattr(stream, "close", None)
            if close is not None:
                close()

    def drain(self, stream: Iterator[EventT], view: View[EventT]) -> EventT | None:
        """Show all events; the last one, which is the result where the flow came to its end."""
        last = None
        for event in self.show(stream, view):
            last = event
        return last

    def say(self, text: RenderableType) -> None:
        """Words for people: a line, escaped here, or what a view has made."""
        if not self.quiet:
            # A terminal breaks lines between words; a file gets them whole.
            whole = isinstance(text, str) and not self.console.is_terminal
            self.console.print(printable(text) if isinstance(text, str) else text, soft_wrap=whole)

    def warn(self, text: str) -> None:
        """Words that even --quiet lets through, on stderr."""
        stderr = console(stderr=True)
        stderr.print(printable(text), style="bold yellow", soft_wrap=not stderr.is_terminal)

    def result(self, document: Any, summary: RenderableType | None = None) -> None:
        """The command's result: JSON on stdout, or `summary` for people."""
        if self.as_json:
            print(json.dumps(to_json(document)))  # noqa: T201  the one place that writes JSON
        elif summary is not None:
            self.say(summary)

    def _dashboard(self, stream: Iterator[EventT], view: View[EventT]) -> Iterator[EventT]:
        lock = threading.Lock()  # the refresher reads the view while events change it

        def renderable() -> RenderableType:
            with lock:
                return Group(view.render(), "")  # the terminal writes ^C where the cursor is: on a line of its own

        notices = []
        try:
            with Live(get_renderable=renderable, console=self.console, refresh_per_second=REFRESH) as live:
                for event in stream:
                    with lock:
                        view.update(event)
                    if isinstance(event, Notice):
                        notices.append(notice_line(event))
                    yield event
                live.refresh()
        finally:  # the dashboard has cut them where they were long
            for notice in dict.fromkeys(notices[-5:]):
                self.say(notice)

    def _log(self, stream: Iterator[EventT], view: View[EventT]) -> Iterator[EventT]:
        for event in stream:
            view.update(event)
            for line in view.lines(event):
                self.log(line)
            yield event

    def log(self, line: str) -> None:
        """One plain line, never wrapped or coloured: a log is read by grep too."""
        if not self.quiet:
            self.console.print(printable(line), soft_wrap=True)


def to_json(value: Any) -> Any:
    """Dataclasses to dictionaries, all the way down."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def notice_line(event: Notice) -> str:
    """How a notice looks in a log."""
    return f"note: {event.message}"
