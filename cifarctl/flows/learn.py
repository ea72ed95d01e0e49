"""The learner as a service: it stands by, works while it holds the seat, and saves its work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict

from cifarctl import events
from cifarctl.errors import BrokerAway, RegistryError, Superseded
from cifarctl.learning.cpu_budget import CpuBudget
from cifarctl.learning.leadership import Seat, open_seat
from cifarctl.learning.learner import Learner
from cifarctl.learning.term import Material, Stopped, tenure
from cifarctl.registry.requests import Requests
from cifarctl.settings import Settings
from cifarctl.stream import clients

WAIT = 0.2  # seconds to wait for the seat
PAUSE = 1.0  # seconds before another attempt after a failure
JOINING = 5.0  # seconds that joining the group may take; afterwards another learner has the seat
SAVE_INTERVAL = 5.0  # seconds between checkpoints while examples arrive
STATUS_INTERVAL = 0.5  # seconds between two LearnerStatus events, which are also the heartbeat


def learn(
    settings: Settings, stop: threading.Event, on_step: Callable[[], None] = lambda: None
) -> Iterator[events.LearnEvent]:
    """Learn from what arrives until `stop` is set; stand by as long as another learner is at work.

    `on_step` is called many times a second, also in the middle of an update.

    Raises:
        BrokerError, RegistryError, DataError: the broker, the registry or the data cannot be used.
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
        told: events.LearnEvent | None = None
        tell_at = time.monotonic() + JOINING
        while not stop.is_set():
            on_step()
            try:
                if seat.wait(WAIT):
                    worked = True
                    yield from _work(settings, material, seat, budget, stop, look, step)
                elif time.monotonic() >= tell_at:
                    tell_at = time.monotonic() + JOINING
                    if (why := _standing_by(settings, seat)) != told:
                        told = why
                        yield why
            except Stopped:  # in the middle of an update, which starts again from the last checkpoint
                return
            except Superseded as reason:
                yield events.Notice(
                    f"{reason}; this learner continues from the last checkpoint once it holds the seat again"
                )
                tell_at, told = time.monotonic() + JOINING, None
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
    """Learn while the seat is held and `stop` is not set; `look` is called while waiting, `step` while learning."""
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
            if (trigger := learner.due()) is not None:  # by time: updates that images make due are done by now
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
    """Why this learner stands by."""
    if seat.trouble is not None:
        return events.Waiting(f"{settings.kafka.bootstrap_servers} does not answer ({seat.trouble})")
    if seat.working:
        return events.Notice("another learner is at work: this one stands by")
    topic = clients.Topics.of(settings.kafka.topic_prefix).learner
    return events.Notice(
        f"this learner stands by: no learner works on {settings.registry.dir}, but the seat on {topic} is taken: "
        "either a killed learner has not timed out at the broker yet, or one works for another registry, alias or group"
    )


def _require(seat: Seat) -> None:
    if not seat.held:
        raise Superseded("this learner has lost its seat")


def _answer(requests: Requests, learner: Learner) -> Iterator[events.LearnEvent]:
    """Answer all waiting requests with the result of one update."""
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
    except RegistryError as error:  # no reason for the learner to stop
        yield events.Notice(f"a request to learn cannot be answered: {error}")
