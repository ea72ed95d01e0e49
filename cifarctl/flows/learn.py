"""The learner as a service: it stands by, works while it holds the seat, saves, and is told to stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Connection

from cifarctl import events
from cifarctl.errors import AliasClaimed, BrokerAway, CifarctlError, RegistryError, Superseded
from cifarctl.learning.cpu_budget import CpuBudget
from cifarctl.learning.leadership import Seat, open_seat
from cifarctl.learning.learner import Learner
from cifarctl.learning.term import Material, Stopped, tenure
from cifarctl.models import memory
from cifarctl.models.threads import use as use_threads
from cifarctl.registry.requests import Requests
from cifarctl.serving.learner_process import Refused
from cifarctl.serving.orphan import orphaned
from cifarctl.settings import Settings
from cifarctl.stream import clients

WAIT = 0.2  # seconds to wait for the seat
PAUSE = 1.0  # seconds before another attempt
JOINING = 5.0  # seconds until it is clear that another learner has the seat
SAVE_INTERVAL = 5.0  # seconds between checkpoints while examples arrive
STATUS_INTERVAL = 0.5  # seconds between two LearnerStatus events, which are also the heartbeat


def follow(
    settings: Settings, stop: threading.Event, on_step: Callable[[], None] = lambda: None
) -> Iterator[events.LearnEvent]:
    """Learn from what arrives until `stop` is set; stand by as long as another learner is at work.

    Raises:
        BrokerError, RegistryError, DataError: what the learner needs is not there.
    """
    material = Material.of(settings)
    budget = CpuBudget(settings.online.cpu_budget)
    with open_seat(settings) as seat:

        def look() -> None:
            on_step()
            if stop.is_set():
                raise Stopped
            _require(seat)

        def step() -> None:
            look()
            budget.keep(look)

        worked = False
        said: events.LearnEvent | None = None
        say_at = time.monotonic() + JOINING
        while not stop.is_set():
            on_step()
            try:
                if seat.wait(WAIT):
                    worked = True
                    yield from _work(settings, material, seat, budget, stop, look, step)
                elif time.monotonic() >= say_at:
                    say_at = time.monotonic() + JOINING
                    if (why := _standing_by(settings, seat)) != said:
                        said = why
                        yield why
            except Stopped:  # in the middle of an update: it is made again from the last checkpoint
                return
            except Superseded as reason:
                yield events.Notice(f"{reason}: from the last checkpoint again, once the seat is held")
                say_at, said = time.monotonic() + JOINING, None
                stop.wait(PAUSE)
            except BrokerAway as error:
                if not worked:  # there may be no broker at all
                    raise
                yield events.Waiting(str(error))
                stop.wait(PAUSE)


def _work(
    settings: Settings,
    material: Material,
    seat: Seat,
    budget: CpuBudget,
    stop: threading.Event,
    look: Callable[[], None],
    step: Callable[[], None],
) -> Iterator[events.LearnEvent]:
    """Learn as long as the seat is held and `stop` is not set; `look` is called while it waits, `step` as it learns."""
    canary = settings.serve.canary > 0
    with tenure(settings, material, seat, on_wait=look, on_step=step, canary=canary) as examples:
        learner, source = examples.learner, examples.source
        yield learner.started()
        yield examples.status()
        saved = shown = time.monotonic()
        waiting = False
        requests = Requests(settings.registry.dir, settings.serve.alias)
        while not stop.is_set():
            updates = learner.updates
            yield from examples.read()
            with suppress(Stopped):  # what has been read is saved below
                budget.keep(look)
            _require(seat)
            yield from learner.follow_alias()
            yield from _answer(requests, learner)
            if (trigger := learner.due()) is not None:  # in time, that is: what images make due is done by now
                yield from learner.update(trigger)
            updated, now = learner.updates > updates, time.monotonic()
            if updated or (examples.unsaved and now - saved >= SAVE_INTERVAL):
                examples.save()
                saved = now
            if updated or now - shown >= STATUS_INTERVAL:
                shown = now
                yield examples.status()
            if (source.last_error is not None) != waiting:
                waiting = not waiting
                if waiting:
                    yield events.Waiting(f"{settings.kafka.bootstrap_servers} does not answer")
        if examples.unsaved:
            examples.save()


def _standing_by(settings: Settings, seat: Seat) -> events.LearnEvent:
    """Why this learner does not work."""
    if seat.trouble is not None:
        return events.Waiting(f"{settings.kafka.bootstrap_servers} does not answer ({seat.trouble})")
    if seat.working:
        return events.Notice("another learner is at work: this one stands by")
    topic = clients.Topics.of(settings.kafka.topic_prefix).learner
    return events.Notice(
        f"this learner stands by: none works on {settings.registry.dir}, but the seat on {topic} is not free; either "
        "the learner before was killed and the broker has not missed it yet, or one works for another registry, alias "
        "or group"
    )


def _require(seat: Seat) -> None:
    if not seat.held:
        raise Superseded("this learner does not hold its seat any more")


def _answer(requests: Requests, learner: Learner) -> Iterator[events.LearnEvent]:
    """Learn now, once for all who have asked for it."""
    try:
        names = requests.waiting()
        if not names:
            return
        result = learner.not_enough(learner.fresh)
        if learner.fresh >= learner.settings.min_examples:
            for event in learner.update("by hand"):
                if isinstance(event, events.RetrainResult):
                    result = event
                yield event
        for name in names:
            requests.answer(name, asdict(result))
    except RegistryError as error:  # the learner goes on all the same
        yield events.Notice(f"a request to learn cannot be answered: {error}")


def run_process(settings: Settings, pipe: Connection) -> None:
    """The learner's own process: events go into `pipe`, at last Refused where a restart is no use.

    The other end of the pipe closing means stop.

    Interrupts of the terminal are the parent's affair; it closes the pipe when it is time.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    use_threads(settings.online.threads)
    memory.keep_freed()
    if settings.online.niceness and hasattr(os, "nice"):
        os.nice(settings.online.niceness)
    stop = threading.Event()

    def follow_parent() -> None:
        with suppress(EOFError, OSError):
            pipe.recv()
        stop.set()

    threading.Thread(target=follow_parent, daemon=True).start()
    beat = time.monotonic()
    writing = threading.Lock()

    def say(event: events.LearnEvent | Refused | None) -> None:
        with writing:
            pipe.send(event)

    def heartbeat() -> None:
        nonlocal beat
        if orphaned():
            stop.set()
        if time.monotonic() - beat >= STATUS_INTERVAL:
            beat = time.monotonic()
            say(None)

    working = threading.Event()

    def say_starting() -> None:  # loading images may take minutes, and is no hanging
        with suppress(OSError):
            while not working.wait(STATUS_INTERVAL):
                say(None)

    starting = threading.Thread(target=say_starting, daemon=True)
    starting.start()
    code, last_words = 0, None
    try:
        for event in follow(settings, stop, heartbeat):
            working.set()
            say(event)
    except OSError:
        pass  # the parent has gone
    except AliasClaimed as error:  # as long as the other one works, which no restart changes
        code = error.exit_code
        with suppress(OSError):
            say(Refused(str(error)))
    except CifarctlError as error:
        code, last_words = error.exit_code, str(error)
    except Exception as error:  # noqa: BLE001  the parent tells it in a line; nobody reads a traceback here
        code, last_words = 1, f"unexpected {type(error).__name__}: {error}"
    working.set()
    starting.join()
    with suppress(OSError):
        if last_words:
            say(events.Notice(f"learner: {last_words}"))
        pipe.close()
    raise SystemExit(code)
