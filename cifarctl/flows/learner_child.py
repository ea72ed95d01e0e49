"""The learner as the child process that `serve` starts: events go to the parent, whose end is the child's end."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection

from cifarctl import events
from cifarctl.errors import AliasClaimed, CifarctlError
from cifarctl.flows.learn import STATUS_INTERVAL, learn
from cifarctl.models import memory
from cifarctl.models.threads import use as use_threads
from cifarctl.serving.learner_process import Refused
from cifarctl.serving.orphan import orphaned
from cifarctl.settings import Settings


def run(settings: Settings, pipe: Connection) -> None:
    """Learn in this process; events go into `pipe`, the last one is Refused if a restart would not help.

    The process exits with the code of the error that ended the learner. It stops when the other end of the pipe closes;
    interrupts from the terminal are ignored, since the parent gets them too and closes the pipe in time.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    use_threads(settings.online.threads)
    memory.keep_freed()
    if settings.online.niceness and hasattr(os, "nice"):
        os.nice(settings.online.niceness)
    parent = _Parent(pipe)
    parent.await_stop()
    parent.report_starting()
    code, last_words = 0, None
    try:
        for event in learn(settings, parent.stop, parent.heartbeat):
            parent.started()
            parent.send(event)
    except OSError:
        pass  # the parent has ended
    except AliasClaimed as error:  # for as long as the other learner works, which no restart changes
        code = error.exit_code
        with suppress(OSError):
            parent.send(Refused(str(error)))
    except CifarctlError as error:
        code, last_words = error.exit_code, str(error)
    except Exception as error:  # noqa: BLE001  the parent reports it in a line; nobody reads a traceback here
        code, last_words = 1, f"unexpected {type(error).__name__}: {error}"
    parent.started()
    with suppress(OSError):
        if last_words:
            parent.send(events.Notice(f"learner: {last_words}"))
        pipe.close()
    raise SystemExit(code)


class _Parent:
    """The parent's end: takes events and heartbeats from any thread, and says when to stop."""

    def __init__(self, pipe: Connection) -> None:
        self.stop = threading.Event()
        self._pipe = pipe
        self._writing = threading.Lock()
        self._beat = time.monotonic()
        self._started = threading.Event()
        self._reporting = threading.Thread(target=self._report, daemon=True)

    def send(self, event: events.LearnEvent | Refused | None) -> None:
        """Send an event, or None as a heartbeat.

        Raises:
            OSError: the parent has ended.
        """
        with self._writing:
            self._pipe.send(event)

    def heartbeat(self) -> None:
        """Send a heartbeat when one is due, and stop if the parent has ended."""
        if orphaned():
            self.stop.set()
        if time.monotonic() - self._beat >= STATUS_INTERVAL:
            self._beat = time.monotonic()
            self.send(None)

    def await_stop(self) -> None:
        """Set `stop`, from a thread, when the parent says so or closes the pipe."""
        threading.Thread(target=self._await_stop, daemon=True).start()

    def report_starting(self) -> None:
        """Send heartbeats, from a thread, until `started`: loading the images may take minutes."""
        self._reporting.start()

    def started(self) -> None:
        """From now on, leave heartbeats to `heartbeat`."""
        if not self._started.is_set():
            self._started.set()
            self._reporting.join()

    def _await_stop(self) -> None:
        with suppress(EOFError, OSError):
            self._pipe.recv()
        self.stop.set()

    def _report(self) -> None:
        with suppress(OSError):
            while not self._started.wait(STATUS_INTERVAL):
                self.send(None)
