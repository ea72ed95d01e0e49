"""`serve` as a flow and as a command: what it answers, when it ends, what it commits, which version it takes."""

from __future__ import annotations

import base64
import functools
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from confluent_kafka import Producer
from processes import Site, children, committed, ids, predictions

from cifarctl import events
from cifarctl.errors import BrokerError
from cifarctl.flows import serve as module
from cifarctl.registry import Description
from cifarctl.registry.loading import load
from cifarctl.registry.publishing import publish
from cifarctl.serving.canary_routing import canary_side
from cifarctl.serving.learner_process import LearnerProcess
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients
from cifarctl.stream.embedded import EmbeddedBroker
from cifarctl.stream.sender import Sender

PREDICTION_FIELDS = {
    "id",
    "label_predicted",
    "class",
    "confidence",
    "label",
    "correct",
    "model_version",
    "model_sha256",
    "source",
    "produced_at",
    "predicted_at",
}
IDLE_S = 0.2


def publish_another(site: Site, classes: tuple[str, ...] | None = None, name: str | None = None) -> int:
    """A version that differs from the production one a little, or in its classes, or says that it is another model."""
    loaded = load(site.registry, "production")
    manifest = loaded.manifest
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.mul_(1.01)
    description = Description.like(
        manifest,
        model=name or manifest.model,
        classes=classes or manifest.classes,
        settings={},
        metrics={},
        parent=manifest.version,
        origin="import",
    )
    return publish(site.registry, loaded.model, description).version


def corrupt(site: Site, version: int) -> None:
    file = site.registry.path(version) / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.chmod(0o644)
    file.write_bytes(content)


def test_every_image_is_answered_and_committed(site: Site) -> None:
    """Two formats, some labels withheld; it ends by itself once there is nothing left to read."""
    site.send(60, produce__unlabelled=0.4)
    site.send(40, produce__format="json", produce__seed=7)
    result = site.serve(idle_timeout=IDLE_S, serve__batch_size=32).result()
    answers = predictions(site.topic("predictions"))
    images = {dict(record.headers)["id"]: record for record in site.topic("images").look()}
    assert sorted(answer.id.encode() for answer in answers) == sorted(id or b"" for id in images)

    loaded = load(site.registry, "production")
    for record in site.topic("predictions").look():
        body = json.loads(record.value or b"")
        assert body.keys() == PREDICTION_FIELDS
        assert body["id"].encode() == record.key
        assert body["class"] == loaded.manifest.classes[body["label_predicted"]]
        assert 0.1 <= body["confidence"] <= 1
        assert (body["model_version"], body["model_sha256"]) == (1, loaded.manifest.sha256)
        image = images[record.key]
        assert body["source"] == {"partition": image.partition, "offset": image.offset}
        assert body["produced_at"] == image.timestamp_ms <= body["predicted_at"]

    labelled = [answer for answer in answers if answer.label is not None]
    assert all((answer.correct is None) == (answer.label is None) for answer in answers)
    assert 0 < len(labelled) < 100
    assert isinstance(result, events.ServeResult)
    assert (result.predicted, result.dead_lettered, result.labelled) == (100, 0, len(labelled))
    assert result.accuracy == pytest.approx(np.mean([answer.correct for answer in labelled]))
    assert result.messages_per_second == pytest.approx(100 / result.seconds)
    assert (result.model_versions, result.swaps) == ([1], 0)
    quantiles = [result.latency_ms[name] for name in ("p50", "p95", "p99", "p999")]
    assert None not in quantiles
    assert quantiles == sorted(quantiles, key=lambda value: value or 0)
    assert committed(site) == 100


def test_without_labels_there_is_no_accuracy(site: Site) -> None:
    site.send(5, produce__unlabelled=1)
    result = site.serve(idle_timeout=IDLE_S).result()
    assert (result.predicted, result.labelled, result.accuracy) == (5, 0, None)


def test_max_messages_is_exact_and_the_next_one_goes_on_from_there(site: Site) -> None:
    site.send(50)
    sender = Sender(site.kafka)
    sender.send(site.topics.images, b"bad", b"no image")
    sender.close(10)
    seen: list[str] = []
    for count, total in ((17, 17), (20, 37)):
        serving = site.serve(max_messages=count, serve__batch_size=8)
        result = serving.result()
        assert result.predicted + result.dead_lettered == count
        assert committed(site) == total
        seen += [id for batch in serving.of(events.BatchServed) for id in batch.ids]
    serving = site.serve(idle_timeout=IDLE_S)
    assert serving.result().predicted + serving.result().dead_lettered == 14
    seen += [id for batch in serving.of(events.BatchServed) for id in batch.ids]
    assert len(seen) == len(set(seen)) == 50
    assert len(site.topic("dead_letters").look()) == 1


def test_idle_means_nothing_left_to_read(site: Site) -> None:
    """It counts from the end of the partitions, not from the start: an empty topic too is left at last."""
    serving = site.serve(idle_timeout=IDLE_S)
    result = serving.result()
    assert (result.predicted, result.seconds, result.accuracy) == (0, 0.0, None)
    assert all(value is None for value in result.latency_ms.values())


NOT_FINITE = base64.b64encode(np.full(3072, np.nan, dtype="<f4").tobytes()).decode()
BAD: list[tuple[str, bytes | None, list[tuple[str, bytes | None]]]] = [
    ("WrongLength", b"x" * 3071, [("content-type", b"application/x-cifar-raw"), ("mine", b"kept")]),
    ("NotJson", b"\xff\x00 neither", []),
    ("NotAnObject", b"[1, 2]", []),
    ("MissingImage", b'{"label": 3}', []),
    ("BadBase64", b'{"image": "%%%", "label": 3}', []),
    ("PixelsNotFinite", json.dumps({"image": NOT_FINITE, "label": 1, "id": "nan"}).encode(), []),
    ("LabelOutOfRange", bytes(3072), [("label", b"10")]),
    ("LabelNotInteger", bytes(3072), [("label", b"three")]),
    ("UnsupportedContentType", b"x", [("content-type", b"text/plain")]),
    ("BadPicture", b"\x89PNG\r\n\x1a\n and so on", []),
    ("NullValue", None, []),
]


def test_bad_input_goes_once_to_the_dead_letters_and_the_stream_goes_on(site: Site) -> None:
    images = site.topic("images")
    sender = Sender(site.kafka)
    good = bytes(range(256)) * 12
    for number, (_, value, headers) in enumerate(BAD):
        sender.send(site.topics.images, f"good-{number}".encode(), good)
        sender.send(site.topics.images, f"bad-{number}".encode(), value, headers)
    sender.send(site.topics.images, b"last", good)
    sender.close(10)
    serving = site.serve(idle_timeout=IDLE_S)
    result = serving.result()
    assert (result.predicted, result.dead_lettered) == (len(BAD) + 1, len(BAD))
    named = Counter(error for batch in serving.of(events.BatchServed) for error, _ in batch.dead_letters)
    assert named == Counter(error for error, _, _ in BAD)

    answers = predictions(site.topic("predictions"))
    assert {answer.id for answer in answers} == {f"good-{number}" for number in range(len(BAD))} | {"last"}
    sent = {record.key: record for record in images.await_records(2 * len(BAD) + 1)}
    letters = site.topic("dead_letters").await_records(len(BAD))
    assert len({letter.key for letter in letters}) == len(BAD)
    for letter in letters:
        error, value, headers = BAD[int((letter.key or b"").removeprefix(b"bad-"))]
        original = sent[letter.key]
        assert letter.value == value
        assert list(letter.headers[: len(headers)]) == headers
        reasons = dict(letter.headers[len(headers) :])
        assert (reasons.pop("cifarctl.error.message") or b"").decode()
        assert reasons == {
            "cifarctl.error.class": error.encode(),
            "cifarctl.error.stage": b"decode",
            "cifarctl.source.topic": site.topics.images.encode(),
            "cifarctl.source.partition": str(original.partition).encode(),
            "cifarctl.source.offset": str(original.offset).encode(),
        }
    assert committed(site) == 2 * len(BAD) + 1


def test_nothing_is_committed_before_the_predictions_are_acknowledged(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Predictions that no broker takes: an error, the offsets stay, and the next one predicts every image."""
    site.send(30)

    producer = clients.producer

    def elsewhere(settings: KafkaSettings, **options: Any) -> Producer:
        if "message.timeout.ms" in options:  # the one of the sink
            settings = settings.model_copy(update={"bootstrap_servers": "127.0.0.1:1"})
            options["message.timeout.ms"] = 50
        return producer(settings, **options)

    with monkeypatch.context() as patch:
        patch.setattr(clients, "producer", elsewhere)
        serving = site.serve(idle_timeout=60)
        with pytest.raises(BrokerError, match="not delivered"):
            serving.result()
    assert not serving.of(events.BatchServed)
    assert committed(site) == 0

    assert site.serve(idle_timeout=IDLE_S).result().predicted == 30
    answers = [answer.id for answer in predictions(site.topic("predictions"))]
    assert sorted(answers) == sorted(ids(site.topic("images")))


def test_a_promotion_is_swapped_in_and_a_corrupt_version_refused(site: Site) -> None:
    second, third = publish_another(site), publish_another(site)
    corrupt(site, third)
    answers = site.topic("predictions")
    serving = site.serve()

    def versions_of_next(count: int) -> set[int]:
        before = len(predictions(answers))
        site.send(count)
        answers.await_records(before + count)
        return {answer.model_version for answer in predictions(answers)[before:]}

    assert versions_of_next(20) == {1}
    promoted = site.call("registry", "promote", str(second))
    assert promoted.exit_code == 0, promoted.stderr
    serving.until(lambda: serving.of(events.Swapped))
    assert versions_of_next(20) == {second}
    assert {answer.model_sha256 for answer in predictions(answers)[20:]} == {site.registry.manifest(second).sha256}

    refused = site.call("registry", "promote", str(third))
    assert refused.exit_code == 4
    site.registry.promote(third, who="somebody", why="without looking")
    serving.until(lambda: serving.of(events.SwapRefused))
    assert versions_of_next(20) == {second}
    assert versions_of_next(20) == {second}

    site.registry.promote(1, who="somebody", why="as it was")
    serving.until(lambda: len(serving.of(events.Swapped)) == 2)
    assert versions_of_next(20) == {1}
    result = serving.finish()
    (refusal,) = serving.of(events.SwapRefused)
    assert refusal.version == third
    assert "sha256" in refusal.reason
    assert serving.of(events.Swapped) == [events.Swapped(1, second), events.Swapped(second, 1)]
    assert {(swap.model, swap.backend, swap.precision) for swap in serving.of(events.Swapped)} == {
        ("net", "eager", "float32")
    }
    assert (result.model_versions, result.swaps) == ([1, second], 2)


@pytest.mark.parametrize(
    ("strange", "reason"),
    [({"classes": tuple("abcdefghij")}, "classes"), ({"name": "some.place:Net"}, "registry.trusted_models")],
    ids=["of other classes", "of untrusted code"],
)
def test_a_version_that_cannot_serve_is_refused_and_coming_back_is_not_a_swap(
    site: Site,
    strange: dict[str, Any],
    reason: str,
) -> None:
    refused = publish_another(site, **strange)
    other = publish_another(site)
    serving = site.serve(serve__alias_interval=0.01)
    serving.until(lambda: serving.of(events.ServeStarted))
    site.registry.promote(refused, who="somebody", why="by mistake")
    serving.until(lambda: serving.of(events.SwapRefused))
    site.registry.promote(1, who="somebody", why="as it was")
    answers = site.topic("predictions")
    for total in range(10, 50, 10):  # time in which it would be swapped
        site.send(10)
        answers.await_records(total)
    site.registry.promote(other, who="somebody", why="on purpose")
    serving.until(lambda: any(swap.new == other for swap in serving.of(events.Swapped)))
    serving.finish()
    (refusal,) = serving.of(events.SwapRefused)
    assert reason in refusal.reason
    assert serving.of(events.Swapped) == [events.Swapped(1, other)]


# --- a canary

CANARY = "production-canary"


def versions_of(site: Site, names: Iterable[str], share: float, canary: int) -> dict[str, int]:
    """Who should answer these ids while there is a canary."""
    return {name: canary if aside else 1 for name, aside in zip(names, canary_side([*names], share), strict=True)}


def point(site: Site, version: int) -> None:
    site.registry.promote(version, alias=CANARY, who="somebody", why="to try it out")


def test_a_canary_answers_its_share_of_the_ids_and_says_so(site: Site) -> None:
    second = publish_another(site)
    site.send(100, produce__seed=1)
    answers = site.topic("predictions")
    serving = site.serve(serve__canary=0.3, serve__batch_size=16)
    answers.await_records(100)
    point(site, second)
    serving.until(lambda: serving.of(events.CanaryMoved))
    site.send(200, produce__unlabelled=0.4)
    answers.await_records(300)
    site.registry.remove_alias(CANARY, who="somebody", why="enough")
    serving.until(lambda: len(serving.of(events.CanaryMoved)) == 2)
    site.send(50, produce__seed=2)
    answers.await_records(350)
    result = serving.finish()
    assert serving.of(events.CanaryMoved) == [
        events.CanaryMoved(None, second, 1, 1),
        events.CanaryMoved(second, None, 1, 1),
    ]
    found = predictions(answers)
    by_id = {answer.id: answer for answer in found}
    assert len(by_id) == 350
    during = [answer.id for answer in found[100:300]]
    expected = versions_of(site, during, 0.3, second)
    assert 30 < sum(version == second for version in expected.values()) < 90
    assert {name: by_id[name].model_version for name in during} == expected
    assert {answer.model_version for answer in [*found[:100], *found[300:]]} == {1}
    hashes = {version: site.registry.manifest(version).sha256 for version in (1, second)}
    assert all(answer.model_sha256 == hashes[answer.model_version] for answer in found)

    models = {version: load(site.registry, version).predictor() for version in (1, second)}
    for record in site.topic("images").look():
        answer = by_id[(record.key or b"").decode()]
        pixels = torch.frombuffer(bytearray(record.value or b""), dtype=torch.uint8).view(1, 3, 32, 32)
        (probabilities,) = models[answer.model_version](pixels)
        assert answer.label_predicted == int(probabilities.argmax())
        assert answer.confidence == pytest.approx(float(probabilities.max()), abs=1e-4)

    assert (result.model_versions, result.swaps) == ([1], 0)
    for row in result.by_version:
        own = [answer for answer in found if answer.model_version == row["version"]]
        right = [answer.correct for answer in own if answer.correct is not None]
        assert (row["predicted"], row["labelled"]) == (len(own), len(right))
        assert row["accuracy"] == pytest.approx(np.mean(right))
    assert [row["version"] for row in result.by_version] == [1, second]
    checked = site.call("verify-stream", "--json")  # the order within partitions, above all
    assert checked.exit_code == 0, checked.stdout


def test_a_broken_canary_is_refused_once_and_production_answers_everything(site: Site) -> None:
    second, third = publish_another(site), publish_another(site)
    corrupt(site, third)
    answers = site.topic("predictions")
    serving = site.serve(serve__canary=0.5, serve__alias_interval=0.01)
    point(site, second)
    serving.until(lambda: serving.of(events.CanaryMoved))
    point(site, third)
    serving.until(lambda: len(serving.of(events.CanaryMoved)) == 2)
    for total in range(20, 80, 20):  # time in which it would be refused again
        site.send(20)
        answers.await_records(total)
    point(site, second)
    serving.until(lambda: len(serving.of(events.CanaryMoved)) == 3)
    serving.finish()
    (refusal,) = serving.of(events.SwapRefused)
    assert (refusal.version, refusal.canary) == (third, True)
    assert "sha256" in refusal.reason
    moved = [(move.old, move.new, move.trial) for move in serving.of(events.CanaryMoved)]
    assert moved == [(None, second, 1), (second, None, 1), (None, second, 2)]
    assert {answer.model_version for answer in predictions(answers)} == {1}


def test_without_a_share_the_canary_answers_nothing(site: Site) -> None:
    point(site, publish_another(site))
    serving = site.serve(serve__alias_interval=0.01)
    serving.until(lambda: serving.of(events.ServeStarted))
    site.registry.promote(other := publish_another(site), who="somebody", why="to know when it has looked")
    serving.until(lambda: serving.of(events.Swapped))
    site.send(50)
    answers = site.topic("predictions")
    answers.await_records(50)
    serving.finish()
    assert serving.of(events.CanaryMoved) == []
    assert {answer.model_version for answer in predictions(answers)} == {other}


def test_a_canary_that_becomes_production_is_none_any_more(site: Site) -> None:
    second = publish_another(site)
    point(site, second)
    serving = site.serve(serve__canary=0.5)
    serving.until(lambda: serving.of(events.CanaryMoved))
    site.registry.promote(second, who="somebody", why="it is good")
    serving.until(lambda: serving.of(events.Swapped))
    serving.until(lambda: len(serving.of(events.CanaryMoved)) == 2)
    answers = site.topic("predictions")
    site.send(50)
    answers.await_records(50)
    result = serving.finish()
    assert serving.of(events.CanaryMoved)[1] == events.CanaryMoved(second, None, second, 1)
    assert [batch.trial for batch in serving.of(events.BatchServed)] == [0] * len(serving.of(events.BatchServed))
    assert (result.swaps, [row["version"] for row in result.by_version]) == (1, [second])


class Clock:
    """Real time, and as much more as the test says."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def test_a_hanging_learner_is_replaced(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "LearnerProcess", functools.partial(LearnerProcess, clock=clock))
    answers = site.topic("predictions")
    serving = site.serve(online=True, online__heartbeat_timeout=600, online__niceness=0)
    serving.until(lambda: serving.of(events.LearnerStarted))
    (first,) = serving.of(events.LearnerStarted)

    os.kill(first.pid, signal.SIGSTOP)
    site.send(20)
    answers.await_records(20)  # it hangs, and nobody waits for it
    assert not serving.of(events.LearnerDown)
    while not serving.of(events.LearnerDown):
        clock.ahead += 601  # what the learner had said before it hung may still be on its way
        site.send(5)
        serving.until(lambda: len(serving.of(events.BatchServed)[-1].ids))
    (down,) = serving.of(events.LearnerDown)
    assert "silent" in down.reason
    serving.until(lambda: len(serving.of(events.LearnerStarted)) == 2)
    assert serving.of(events.LearnerStarted)[1].pid not in {first.pid, os.getpid()}

    total = len(ids(site.topic("images")))
    answers.await_records(total)
    result = serving.finish()
    assert isinstance(result, events.OnlineServeResult)
    assert result.predicted == total


def test_print_shows_a_line_an_image(site: Site) -> None:
    """And --max-messages ends the command with a JSON result and code 0."""
    site.send(12, produce__unlabelled=0.5)
    serve = site.run("serve", "--print", "--json", "--max-messages", "12")
    assert serve.document["predicted"] == 12
    lines = serve.err.splitlines()
    answers = predictions(site.topic("predictions"))
    assert {answer.label is None for answer in answers} == {True, False}
    classes = site.registry.manifest(1).classes
    for answer in answers:
        if answer.label is None:
            verdict = "unlabelled"
        else:
            verdict = "correct" if answer.correct else f"wrong ({classes[answer.label]})"
        assert f"{answer.id}  {answer.class_name}  {answer.confidence:.2f}  {verdict}" in lines


def test_a_second_ctrl_c_leaves_at_once(site: Site) -> None:
    """The broker no longer answers, so that draining takes long: without the second one it would go on waiting."""
    with EmbeddedBroker() as own:
        site.options |= {"kafka.bootstrap_servers": own.bootstrap_servers, "kafka.commit_interval_ms": 3_600_000}
        site.kafka = site.kafka.model_copy(update={"bootstrap_servers": own.bootstrap_servers})
        site.send(10)
        serve = site.start("serve", "--json", kafka__timeout_s=60)
        answers = site.topic("predictions")
        serve.until(lambda: len(answers.look()) == 10)
        assert own._guard is not None
        (pid,) = children(own._guard.pid)
        os.kill(pid, signal.SIGSTOP)
        try:
            serve.until(lambda: serve.ended or serve.press_ctrl_c())
            assert serve.wait() == 130
            assert serve.out == ""
        finally:
            os.kill(pid, signal.SIGCONT)


def test_an_unknown_strategy_is_reported_before_anything_is_served(site: Site) -> None:
    """A learner that cannot start would be tried again and again."""
    ran = site.call("serve", "--online", online__strategy="magic")
    assert ran.exit_code == 2, ran.stderr
    assert "online.strategy = magic: no such strategy; there are der++, er-ace, finetune, mixture, replay" in ran.stderr
