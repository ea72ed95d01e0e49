"""The learner as a service: it stands by, works while it is the leader, and saves its work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict

from cifarctl import events
from cifarctl.errors import BrokerAway, RegistryError, Superseded
from cifarctl.learning.cpu_budget import CpuBudget
from cifarctl.learning.leadership import Leadership, open_leadership
from cifarctl.learning.learner import Learner
from cifarctl.learning.term import Material, Stopped, term
from cifarctl.registry.requests import Requests
from cifarctl.settings import Settings
from cifarctl.stream import clients

WAIT = 0.2  # seconds to wait for leadership
PAUSE = 1.0  # seconds before another attempt after a failure
JOINING = 5.0  # seconds that joining the group may take; afterwards another learner is the leader
SAVE_INTERVAL = 5.0  # seconds between checkpoints while examples arrive
STATUS_INTERVAL = 0.5  # seconds between two LearnerStatus events, which are also the heartbeat


def learn(
    settings: Settings, stop: threading.Event, on_step: Callable[[], None] = lambda: None
) -> Iterator[events.LearnEvent]:
    """Learn from the stream until `stop` is set; stand by while another learner is at work.

    `on_step` is called many times a second, also in the middle of an update.

    Raises:
        BrokerError, RegistryError, DataError: the broker, the registry or the data cannot be used.
    """
    material = Material.of(settings)
    budget = CpuBudget(settings.online.cpu_budget)
    with open_leadership(settings) as leadership:

        def look() -> None:
            on_step()
            if stop.is_set():
                raise Stopped
            _require(leadership)

        def step() -> None:
            look()
            budget.keep(look)

        worked = False
        told: events.LearnEvent | None = None
        tell_at = time.monotonic() + JOINING
        while not stop.is_set():
            on_step()
            try:
                if leadership.wait(WAIT):
                    worked = True
                    yield from _work(settings, material, leadership, budget, stop, look, step)
                elif time.monotonic() >= tell_at:
                    tell_at = time.monotonic() + JOINING
                    if (why := _standing_by(settings, leadership)) != told:
                        told = why
                        yield why
            except Stopped:  # in the middle of an update, which starts again from the last checkpoint
                return
            except Superseded as reason:
                yield events.Notice(
                    f"{reason}; this learner continues from the last checkpoint once it is the leader again"
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
    leadership: Leadership,
    budget: CpuBudget,
    stop: threading.Event,
    look: Callable[[], None],
    step: Callable[[], None],
) -> Iterator[events.LearnEvent]:
    """Learn as the leader until `stop` is set; `look` is called while waiting, `step` while learning."""
    canary = settings.serve.canary > 0
    with term(settings, material, leadership, on_wait=look, on_step=step, canary=canary) as examples:
        learner, source = examples.learner, examples.source
        yield learner.started()
        yield examples.status()
        saved = reported_at = time.monotonic()
        waiting = False
        requests = Requests(settings.registry.dir, settings.serve.alias)
        while not stop.is_set():
            updates = learner.updates
            yield from examples.read()
            with suppress(Stopped):  # everything read is saved below
                budget.keep(look)
            _require(leadership)
            yield from learner.follow_alias()
            yield from _answer(requests, learner)
            if (trigger := learner.due()) is not None:  # by time: updates that images make due are done by now
                yield from learner.update(trigger)
            updated, now = learner.updates > updates, time.monotonic()
            if updated or (examples.unsaved and now - saved >= SAVE_INTERVAL):
                examples.save()
                saved = now
            if updated or now - reported_at >= STATUS_INTERVAL:
                reported_at = now
                yield examples.status()
            if (source.last_error is not None) != waiting:
                waiting = not waiting
                if waiting:
                    yield events.Waiting(f"{settings.kafka.bootstrap_servers} does not answer")
        if examples.unsaved:
            examples.save()


def _standing_by(settings: Settings, leadership: Leadership) -> events.LearnEvent:
    """Why this learner stands by."""
    if leadership.trouble is not None:
        return events.Waiting(f"{settings.kafka.bootstrap_servers} does not answer ({leadership.trouble})")
    if leadership.working:
        return events.Notice("another learner is at work: this one stands by")
    topic = clients.Topics.of(settings.kafka.topic_prefix).learner
    return events.Notice(
        f"this learner stands by: no learner works on {settings.registry.dir}, but leadership on {topic} is taken: "
        "either a killed learner has not timed out at the broker yet, or one works for another registry, alias or group"
    )


def _require(leadership: Leadership) -> None:
    if not leadership.held:
        raise Superseded("this learner has lost leadership")


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
