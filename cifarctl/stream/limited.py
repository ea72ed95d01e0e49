"""Calls that may take longer than they promise, kept from holding up who makes them."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, ParamSpec, TypeAlias, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
#: Makes a call in a thread of its own, as `begin` does.
Begin: TypeAlias = Callable[..., Future[Any]]

#: Seconds at the end of the process for calls that nobody waits for any longer: a client must not go under their feet.
LAST_WAIT_S = 5.0

_unfinished: set[Future[Any]] = set()


def begin(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Make a call in a thread of its own."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  raised again by whoever asks for the result
            future.set_exception(error)

    _unfinished.add(future)
    future.add_done_callback(_unfinished.discard)
    threading.Thread(target=run, name=getattr(call, "__name__", "call"), daemon=True).start()
    return future


@atexit.register
def _wait_for_the_last() -> None:
    wait(list(_unfinished), LAST_WAIT_S)
