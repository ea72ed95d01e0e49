"""The supervisor of the learner, a child process that may die or hang without disturbing the predictor."""

from __future__ import annotations

import multiprocessing
import pkgutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import TracebackType

from cifarctl import events
from cifarctl.serving.orphan import end_with_parent
from cifarctl.settings import Settings

FIRST_DELAY = 1.0  # seconds before the first restart; doubled each time
LONGEST_DELAY = 60.0  # seconds
REAP_TIMEOUT = 0.5  # seconds for a killed process to end
STOP_TIMEOUT = 5.0  # seconds for the learner to save its work


@dataclass(frozen=True)
class Refused:
    """Last word of a learner that should not be started again."""

    reason: str


class LearnerProcess:
    """Starts the learner, passes on its events, and restarts it with growing delays when it ends or falls silent.

    Nothing here waits for the learner, except for half a second when it is killed, and at the end while it saves.
    """

    def __init__(self, settings: Settings, work: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`work` names a function (module:name) that takes the settings and a pipe; only the child imports it."""
        self._settings, self._work, self._clock = settings, work, clock
        self._context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self._heard = self._started = 0.0
        self._restarts = 0
        self._start_at = 0.0
        self._last_notice = ""
        self._stopping = False
        self._refused: str | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the running learner."""
        return self._process.pid if self._process is not None else None

    def __enter__(self) -> LearnerProcess:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the learner save its work, then end it; its last events can still be polled."""
        self._stopping = True
        if self._process is None or self._pipe is None:
            return
        with suppress(OSError):
            self._pipe.send("stop")
        self._process.join(STOP_TIMEOUT)
        self._end()

    def poll(self) -> Iterator[events.ServeEvent]:
        """The learner's events since the last call; restarts it when that is due. Never blocks."""
        if self._pipe is not None:
            try:
                while self._pipe.poll():
                    event = self._pipe.recv()
                    self._heard = self._clock()
                    if event is None:
                        continue
                    if isinstance(event, Refused):
                        self._refused = event.reason
                        continue
                    if self._heard - self._started > LONGEST_DELAY:
                        self._restarts = 0  # it has worked for a while: a later end has another cause
                    if isinstance(event, events.Notice):
                        self._last_notice = event.message
                    yield event
            except (EOFError, OSError):
                pass
        if self._stopping:
            return
        if self._process is None:
            if self._refused is None and self._clock() >= self._start_at:
                self._start()
        elif not self._process.is_alive():
            yield self._down(self._ended())
        elif self._clock() - self._heard > self._settings.online.heartbeat_timeout:
            self._end()
            yield self._down(f"silent for {self._settings.online.heartbeat_timeout:g} s, so it was killed")

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(
            target=_run, args=(self._work, self._settings, theirs), name="learner", daemon=True
        )
        self._process.start()
        theirs.close()
        self._heard = self._started = self._clock()
        self._last_notice = ""

    def _end(self) -> None:
        assert self._process is not None
        if self._process.is_alive():
            self._process.kill()
        self._process.join(REAP_TIMEOUT)  # a process that hangs in the kernel does not die at once

    def _ended(self) -> str:
        assert self._process is not None
        code = self._process.exitcode or 0
        how = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"{how}: {self._last_notice}" if self._last_notice else how

    def _down(self, reason: str) -> events.LearnerDown:
        if self._refused is not None:
            reason = self._refused
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2**self._restarts)
        self._restarts += 1
        self._start_at = self._clock() + delay
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None
        return events.LearnerDown(reason, self._restarts, delay if self._refused is None else None)


def _run(work: str, settings: Settings, theirs: Connection) -> None:
    end_with_parent()  # before the imports, which take seconds
    pkgutil.resolve_name(work)(settings, theirs)
