"""Calls in threads of their own, so that a call which outlasts its own time limit holds nobody up."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, ParamSpec, TypeAlias, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
#: Starts a call in a thread of its own, as `start` does.
StartCall: TypeAlias = Callable[..., Future[Any]]

#: Seconds beyond its own time limit after which a call counts as hung.
OVERTIME_S = 2.0
#: Seconds that the process waits at its end for calls still running: a client must not be freed while one is inside it.
EXIT_WAIT_S = 5.0

_unfinished: set[Future[Any]] = set()


def start(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Start `call` in a thread of its own; its result or exception is in the future."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  raised again where the result is asked for
            future.set_exception(error)

    _unfinished.add(future)
    future.add_done_callback(_unfinished.discard)
    threading.Thread(target=run, name=getattr(call, "__name__", "call"), daemon=True).start()
    return future


class Calls:
    """The calls into one client that are still running: closing a client under a call crashes the process."""

    def __init__(self) -> None:
        self._running: set[Future[Any]] = set()

    def start(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start `call` in a thread of its own."""
        future = start(call, *args, **kwargs)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return future

    def finished(self, timeout_s: float) -> bool:
        """Wait for all calls; False if one is still running after `timeout_s` seconds."""
        return not wait(list(self._running), timeout_s).not_done


@atexit.register
def _wait_at_exit() -> None:
    wait(list(_unfinished), EXIT_WAIT_S)
