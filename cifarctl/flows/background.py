"""A flow in a thread of its own, next to the one that the main thread reads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

EventT = TypeVar("EventT")


class BackgroundFlow(Generic[EventT]):
    """Reads a flow in a daemon thread; an exception that ends it is kept for `check`."""

    def __init__(self, flow: Iterator[EventT], on_event: Callable[[EventT], None] = lambda _: None) -> None:
        """`on_event` is called in the thread with each event."""
        self._flow, self._on_event = flow, on_event
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def started(self) -> bool:
        """Whether `start` was called."""
        return self._thread.ident is not None

    @property
    def running(self) -> bool:
        """Whether the thread has started and not ended."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start reading."""
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait for the end of the flow, `timeout_s` seconds at most."""
        self._thread.join(timeout_s)

    def check(self) -> None:
        """Raise what ended the flow, if it was an exception."""
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            for event in self._flow:
                self._on_event(event)
        except BaseException as error:  # noqa: BLE001  raised by check
            self._failure = error
