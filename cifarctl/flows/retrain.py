"""``cifarctl retrain``: learn once from the images that have arrived, or ask the running learner to."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path

from cifarctl import events
from cifarctl.errors import BrokerError, NotEnoughData, RegistryBusy
from cifarctl.flows.learn import STATUS_INTERVAL
from cifarctl.learning.examples import Examples
from cifarctl.learning.leadership import Leadership, RegistryLeadership, open_leadership, stream_of
from cifarctl.learning.term import Material, Stopped, term
from cifarctl.registry import Registry
from cifarctl.registry.requests import Requests
from cifarctl.settings import Settings
from cifarctl.stream import clients

ANSWER_INTERVAL = 0.2  # seconds between two looks for an answer
JOIN_S = 30.0  # to get leadership that no other learner wants; a broker's first group takes a while
STUCK_S = 60.0  # without anything to read; a dead member has timed out by then, after 45 s by Kafka's default
PARTS = 4  # parts of the examples, with an update after each


def rehearse(settings: Settings, stop: threading.Event, *, since_ms: int | None = None) -> Iterator[events.LearnEvent]:
    """As `once`, on a copy of the registry and without committing, so that nothing is changed.

    Raises:
        NotEnoughData: fewer than `online.min_examples` examples.
        BrokerError: the broker does not answer, or another member of the group holds partitions without reading them.
        RegistryBusy: a learner is at work, which reads the same messages.
    """
    folder = settings.registry.dir
    with open_leadership(settings) as leadership:
        if leadership.taken:
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

    The examples are taken in order, in `PARTS` parts, with an update after each: the model that has learned from the
    earlier parts predicts the next one, and is judged by that. A trial that is undecided at the end goes on the next
    time. Where another learner is at work, it is asked to learn from what it has now. With `since_ms` (epoch
    milliseconds) the examples are those produced since then, and learning starts over from the production version.
    `dry`: nothing is saved, committed or sent.

    Raises:
        NotEnoughData: fewer than `online.min_examples` examples; they are kept for the next time.
        BrokerError: the broker does not answer, or another member of the group holds partitions without reading them.
        RegistryBusy: another learner was at work and has ended without an answer; or is at work, with `since_ms`.
        Superseded: another learner has taken over.
    """

    began = time.perf_counter()
    with ExitStack() as stack:
        if dry:
            leadership: Leadership = RegistryLeadership(
                Registry(settings.registry), stream_of(settings, clients.check(settings.kafka))
            )
        else:
            leadership = stack.enter_context(open_leadership(settings))
        if not leadership.taken and leadership.wait(JOIN_S):
            yield from _learn(settings, stop, leadership, began, since_ms, dry=dry)
        elif since_ms is None:
            yield from _ask(settings, leadership, stop)
        else:
            raise RegistryBusy(
                f"a learner works on {settings.registry.dir} and goes on from what it has learned: stop it first, "
                "or leave out --since and it is asked to learn"
            )


def _learn(
    settings: Settings, stop: threading.Event, leadership: Leadership, began: float, since_ms: int | None, *, dry: bool
) -> Iterator[events.LearnEvent]:
    """Read and learn as the leader; ends without a result when `stop` is set."""

    def step() -> None:
        if stop.is_set():
            raise Stopped

    with (
        suppress(Stopped),
        term(
            settings,
            Material.of(settings),
            leadership,
            on_wait=step,
            on_step=step,
            since_ms=since_ms,
            dry=dry,
            hold=True,
        ) as examples,
    ):
        learner, held = examples.learner, examples.held
        assert held is not None
        yield learner.started()
        yield from _catch_up(examples, settings, stop)
        if stop.is_set():
            return
        if (notice := examples.unmatched.verdict()) is not None:
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
        result = _combined(results, learner.champion, held.count, time.perf_counter() - began)
        requests = Requests(settings.registry.dir, settings.serve.alias)
        for name in requests.waiting():  # others who have asked meanwhile
            requests.answer(name, asdict(result))
        yield result


def _combined(
    results: Sequence[events.RetrainResult], champion: int, examples: int, seconds: float
) -> events.RetrainResult:
    """The result of all parts: promoted where the `champion` at the end is another version than at the beginning."""
    before = results[0].champion["version"]
    promoted = champion != before
    won = next((result for result in results if result.outcome == "promoted"), results[-1])
    decisive = won if promoted else results[-1]
    return replace(
        decisive,
        outcome="promoted" if promoted else "rejected",
        examples=examples,
        champion=decisive.champion | {"version": before},
        challenger=decisive.challenger | {"version": champion if promoted else None},
        seconds=seconds,
    )


def _refuse(result: events.RetrainResult) -> Iterator[events.LearnEvent]:
    """Yield the result, which scripts read, before the error that says that there are too few examples."""
    yield result
    raise NotEnoughData(f"{result.reasons[0]}; stream more, or lower online.min_examples")


def _ask(settings: Settings, leadership: Leadership, stop: threading.Event) -> Iterator[events.LearnEvent]:
    """Ask the learner that is at work to learn; ends with its RetrainResult, or without one when `stop` is set."""
    requests = Requests(settings.registry.dir, settings.serve.alias)
    name = requests.ask()
    yield events.Notice("a learner is at work on this registry: it is asked to learn now")
    try:
        while not stop.wait(ANSWER_INTERVAL):
            if (found := requests.fetch(name)) is not None:
                result = events.RetrainResult(**found)
                yield from _refuse(result) if result.outcome == "not_enough_data" else [result]
                return
            if leadership.held or not leadership.taken:
                raise RegistryBusy("the learner that was at work has ended without an answer: try again")
    finally:
        requests.withdraw(name)


def _catch_up(examples: Examples, settings: Settings, stop: threading.Event) -> Iterator[events.LearnEvent]:
    """Read everything that has arrived.

    Raises:
        BrokerError: the broker has stopped answering, or gives nothing to read although the end was not reached.
    """
    source, broker = examples.source, settings.kafka.bootstrap_servers
    topics, partitions = clients.Topics.of(settings.kafka.topic_prefix), clients.partition_counts(settings.kafka)
    whole = partitions[topics.images] + partitions[topics.labels]
    reported_at, answered, moved, progress = 0.0, time.monotonic(), time.monotonic(), source.progress
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
                f"the group {source.group_id} holds partitions without reading them; end that process, or wait until "
                "the group has removed it"
            )
        if time.monotonic() - reported_at >= STATUS_INTERVAL:
            reported_at = time.monotonic()
            yield examples.status()
