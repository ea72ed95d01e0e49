"""The tutorial's own producer and consumer (kafka-python, JSON of base64 float32) and ours understand each other."""

from __future__ import annotations

import functools
import json

import pytest
import torch
from processes import Site, predictions, tutorial

from cifarctl import events
from cifarctl.registry.loading import load
from cifarctl.stream import codecs

#: kafka-python 3 would rather have an object than the tutorial's function.
QUIET = pytest.mark.filterwarnings("ignore:.*does not implement kafka.serializer:DeprecationWarning")

HALVES = (0.5, 0.5, 0.5)


@QUIET
def test_the_tutorials_consumer_reads_our_json(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scripts = tutorial()
    # Joining a group of the embedded broker takes half of the session.
    quick = functools.partial(scripts.KafkaConsumer, session_timeout_ms=1500, heartbeat_interval_ms=500)
    monkeypatch.setattr(scripts, "KafkaConsumer", quick)
    seen: list[torch.Tensor] = []

    class Seeing(scripts.Net):  # type: ignore[name-defined,misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            logits: torch.Tensor = super().forward(x)
            return logits

    site.send(12, produce__format="json")
    answers = site.topic("predictions")
    handled = scripts.consume(
        site.kafka.bootstrap_servers, site.topics.images, site.topics.predictions, Seeing(), count=12
    )
    assert handled.messages == 12

    records = site.topic("images").await_records(12)
    sent, letters = codecs.decode(records, classes=10, json_mean=HALVES, json_std=HALVES)
    assert not letters
    bodies = {body["id"]: body for body in (json.loads(record.value or b"") for record in answers.await_records(12))}
    assert bodies.keys() == set(sent.ids)
    assert [bodies[id]["label"] for id in sent.ids] == sent.labels.tolist()
    # What reached its network is what its own transform makes of the same pixels.
    wanted = [(torch.from_numpy(pixels).float() / 255 - 0.5) / 0.5 for pixels in sent.pixels]
    for image in seen:
        assert image.shape == (1, 3, 32, 32)
        assert any(torch.allclose(image[0], other, atol=1e-6) for other in wanted)


@QUIET
def test_the_tutorials_producer_is_served(site: Site) -> None:
    scripts = tutorial()
    images = site.stream_images()
    examples = [
        ((pixels.float() / 255 - 0.5) / 0.5, label)
        for pixels, label in zip(images.pixels[:15], images.labels[:15].tolist(), strict=True)
    ]
    serving = site.serve(max_messages=15)
    serving.until(lambda: serving.of(events.ServeStarted))
    sent = scripts.produce(site.kafka.bootstrap_servers, site.topics.images, examples, count=15, interval=0)
    assert sent.messages == 15
    result = serving.result()
    assert (result.predicted, result.dead_lettered, result.labelled) == (15, 0, 15)

    answers = {answer.id: answer for answer in predictions(site.topic("predictions"))}
    loaded = load(site.registry, "production")
    predictor = loaded.predictor()
    expected = predictor(images.pixels[:15]).argmax(dim=1).tolist()
    assert answers.keys() == {str(number) for number in range(15)}
    assert [answers[str(number)].label_predicted for number in range(15)] == expected
    assert [answers[str(number)].label for number in range(15)] == images.labels[:15].tolist()
