"""Learning by hand: from what has arrived, once; or by whoever is at work."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path

from cifarctl import events
from cifarctl.errors import BrokerError, NotEnoughData, RegistryBusy
from cifarctl.flows.learn import STATUS_INTERVAL
from cifarctl.learning.examples import Examples
from cifarctl.learning.leadership import RegistrySeat, Seat, open_seat, stream_of
from cifarctl.learning.term import Material, Stopped, tenure
from cifarctl.registry import Registry
from cifarctl.registry.requests import Requests
from cifarctl.settings import Settings
from cifarctl.stream import clients

ANSWER_INTERVAL = 0.2  # seconds between two looks for an answer
JOIN_S = 30.0  # for a seat that nobody else is after; a broker's first group takes a while
STUCK_S = 60.0  # without anything to read; who died is missed by then, after 45 s where the broker decides
PARTS = 4  # of the examples that `retrain` learns from by hand


def rehearse(settings: Settings, stop: threading.Event, *, since_ms: int | None = None) -> Iterator[events.LearnEvent]:
    """As `once`, on a copy of the registry and without committing: what would come of it; nothing is changed.

    Raises:
        NotEnoughData: fewer than `online.min_examples` examples.
        BrokerError: the broker does not answer, or others keep from it what it is to read.
        RegistryBusy: a learner is at work, which reads the same messages.
    """
    folder = settings.registry.dir
    with open_seat(settings) as seat:
        if seat.taken:
            raise RegistryBusy(
                f"a learner works on {folder}; stop it first, or leave out --dry-run and it is asked to learn"
            )
    with tempfile.TemporaryDirectory(prefix="cifarctl-rehearsal-") as temporary:
        copy = Path(temporary) / "registry"
        if folder.is_dir():
            shutil.copytree(folder, copy)
        registry = settings.registry.model_copy(update={"dir": copy})
        for event in once(settings.model_copy(update={"registry": registry}), stop, since_ms=since_ms, dry=True):
            if isinstance(event, events.RetrainResult):
                event = replace(event, challenger=event.challenger | {"version": None})
            yield event


def once(
    settings: Settings, stop: threading.Event, *, since_ms: int | None = None, dry: bool = False
) -> Iterator[events.LearnEvent]:
    """Learn from the labelled examples that have arrived since the last time; ends with a RetrainResult.

    They are taken in their order in `PARTS` parts, with an update after each, so that what has been learned from the
    ones before predicts the next and is judged by that. Where it has not won its trial by the end, the trial goes on
    the next time. Where another learner is at work, it is asked to learn from what it has got now. With `since_ms`
    (epoch milliseconds) they are those produced since then, and it begins anew from the version in production, whatever
    was learned before. `dry`: nothing is saved, committed or sent.

    Raises:
        NotEnoughData: fewer than `online.min_examples` of them; they are kept for the next time.
        BrokerError: the broker does not answer, or others keep from it what it is to read.
        RegistryBusy: another learner was at work, and has ended without an answer; or is, and should begin anew.
        Superseded: another learner has taken over.
    """

    def step() -> None:
        if stop.is_set():
            raise Stopped

    began = time.perf_counter()
    with ExitStack() as stack:
        if dry:
            seat: Seat = RegistrySeat(Registry(settings.registry), stream_of(settings, clients.check(settings.kafka)))
        else:
            seat = stack.enter_context(open_seat(settings))
        if seat.taken or not seat.wait(JOIN_S):
            if since_ms is not None:
                raise RegistryBusy(
                    f"a learner works on {settings.registry.dir} and goes on from what it has learned: stop it first, "
                    "or leave out --since and it is asked to learn"
                )
            yield from _ask(settings, seat, stop)
            return
        stack.enter_context(suppress(Stopped))
        material = Material.of(settings)
        examples = stack.enter_context(
            tenure(settings, material, seat, on_wait=step, on_step=step, since_ms=since_ms, dry=dry, hold=True)
        )
        learner = examples.learner
        yield learner.started()
        held = examples.held
        assert held is not None
        yield from _catch_up(examples, settings, stop)
        if stop.is_set():
            return
        if (notice := examples.strays.verdict()) is not None:
            yield notice
        if held.count < settings.online.min_examples:
            yield from held.learn(0)
            examples.save()
            yield from _refuse(learner.not_enough(held.count))
            return
        results: list[events.RetrainResult] = []
        for event in held.learn(PARTS):
            if isinstance(event, events.RetrainResult):
                results.append(event)
            yield event
        examples.save()
        first = results[0]
        won = next((result for result in results if result.outcome == "promoted"), results[-1])
        promoted = learner.champion != first.champion["version"]
        decisive = won if promoted else results[-1]
        result = replace(
            decisive,
            outcome="promoted" if promoted else "rejected",
            examples=held.count,
            champion=decisive.champion | {"version": first.champion["version"]},
            challenger=decisive.challenger | {"version": learner.champion if promoted else None},
            seconds=time.perf_counter() - began,
        )
        requests = Requests(settings.registry.dir, settings.serve.alias)
        for name in requests.waiting():  # others who have asked meanwhile
            requests.answer(name, asdict(result))
        yield result


def _refuse(result: events.RetrainResult) -> Iterator[events.LearnEvent]:
    """Tell that there are too few examples, and how many, before the error that says so: scripts read it."""
    yield result
    raise NotEnoughData(f"{result.reasons[0]}; stream more, or lower online.min_examples")


def _ask(settings: Settings, seat: Seat, stop: threading.Event) -> Iterator[events.LearnEvent]:
    """Let the learner that is at work learn; ends with its RetrainResult, or without one when `stop` is set."""
    requests = Requests(settings.registry.dir, settings.serve.alias)
    name = requests.ask()
    yield events.Notice("a learner is at work on this registry: it is asked to learn now")
    try:
        while not stop.wait(ANSWER_INTERVAL):
            if (found := requests.fetch(name)) is not None:
                result = events.RetrainResult(**found)
                yield from _refuse(result) if result.outcome == "not_enough_data" else [result]
                return
            if seat.held or not seat.taken:
                raise RegistryBusy("the learner that was at work has ended without an answer: try again")
    finally:
        requests.withdraw(name)


def _catch_up(examples: Examples, settings: Settings, stop: threading.Event) -> Iterator[events.LearnEvent]:
    """Read all that has arrived.

    Raises:
        BrokerError: the broker has stopped answering, or gives nothing to read although the end was not reached.
    """
    source, broker = examples.source, settings.kafka.bootstrap_servers
    topics, partitions = clients.Topics.of(settings.kafka.topic_prefix), clients.partition_counts(settings.kafka)
    whole = partitions[topics.images] + partitions[topics.labels]
    shown, answered, moved, progress = 0.0, time.monotonic(), time.monotonic(), source.progress
    while not (source.caught_up and len(source.assigned) >= whole) and not stop.is_set():
        yield from examples.read()
        if source.last_error is not None:
            if time.monotonic() - answered > settings.kafka.timeout_s:
                raise BrokerError(
                    f"{broker} has stopped answering ({source.last_error}); "
                    "try again when kafka.bootstrap_servers can be reached"
                )
            moved = time.monotonic()
        else:
            answered = time.monotonic()
        if source.progress != progress:
            progress, moved = source.progress, time.monotonic()
        if time.monotonic() - moved > STUCK_S:
            missing = ", ".join(source.unfinished) or f"{whole - len(source.assigned)} partitions"
            raise BrokerError(
                f"{broker} answers, but for {STUCK_S:.0f} s has given nothing to read of {missing}: another member of "
                f"the group {source.group_id} holds on to what it does not read; end that process, or wait until the "
                "group has missed it"
            )
        if time.monotonic() - shown >= STATUS_INTERVAL:
            shown = time.monotonic()
            yield examples.status()
