"""Calls that may take longer than they promise, kept from holding up who makes them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def begin(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Make a call in a thread of its own, which nobody waits for at the end of the process."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  raised again by whoever asks for the result
            future.set_exception(error)

    threading.Thread(target=run, name=getattr(call, "__name__", "call"), daemon=True).start()
    return future
