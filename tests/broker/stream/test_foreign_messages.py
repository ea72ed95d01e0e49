"""Messages of other clients through the real `serve`: header names that are no text, binary keys, other layouts."""

from __future__ import annotations

import json

import numpy as np
import pytest
import raw_headers
from layout_checks import HALF
from processes import Site, predictions

from cifarctl import events
from cifarctl.settings import KafkaSettings
from cifarctl.stream import browse, clients, codecs
from cifarctl.stream.sender import Sender

RAW = bytes(range(256)) * 12
IDLE_S = 0.2
TYPE = (b"content-type", b"application/x-cifar-raw")


def test_headers_are_kept_although_the_name_of_one_is_not_text(site: Site) -> None:
    """The rest of them count as ever, for predictions, for dead letters, and when these are sent back."""
    images = site.topic("images")
    raw_headers.send(
        site.kafka.bootstrap_servers,
        site.topics.images,
        [
            (b"k0", RAW, [(b"tr\xffce", b"1"), TYPE, (b"id", b"mine"), (b"label", b"3")]),
            (b"k1", RAW, [(b"id", b"gif"), (b"content-type", b"image/gif"), (b"\xfe", b"a"), (b"\xfd", b"b")]),
            (b"k2", RAW, [(b"label", b"99"), (b"id", b"label"), (b"tr\xffce", b"2")]),
            (b"k3", RAW, [(b"id", b"last")]),
        ],
    )
    result = site.serve(idle_timeout=IDLE_S).result()
    assert (result.predicted, result.dead_lettered, result.labelled) == (2, 2, 1)
    answers = {answer.id: answer.label for answer in predictions(site.topic("predictions"))}
    assert answers == {"mine": 3, "last": None}
    letters = {record.key: record for record in site.topic("dead_letters").await_records(2)}
    gif, label = letters[b"k1"], letters[b"k2"]
    assert gif.headers[:4] == (("id", b"gif"), ("content-type", b"image/gif"), ("\\xfe", b"a"), ("\\x??", b"b"))
    assert dict(gif.headers)["cifarctl.error.class"] == b"UnsupportedContentType"
    assert label.headers[:3] == (("label", b"99"), ("id", b"label"), ("tr\\xffce", b"2"))
    assert dict(label.headers)["cifarctl.error.class"] == b"LabelOutOfRange"

    listed = json.loads(site.call("dead-letters", "list", "--json").stdout)
    assert {row["id"] for row in (listed if isinstance(listed, list) else listed["letters"])} == {"gif", "label"}
    assert site.call("dead-letters", "replay", "--all").exit_code == 0
    returned = {record.key: record.headers for record in images.await_records(6)[-2:]}
    assert returned[b"k2"][:3] == label.headers[:3]


def test_what_the_client_does_not_hand_out_is_refused(
    kafka: KafkaSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client that gives nothing away after it has failed: never taken for a message without headers."""

    class Closed:
        def __init__(self, message: object) -> None:
            self._message = message

        def __getattr__(self, name: str) -> object:
            return getattr(self._message, name)

        def headers(self) -> None:
            raise SystemError("returned a result with an exception set")

    topic = clients.Topics.of(kafka.topic_prefix).images
    clients.ensure_topics(kafka, [topic])
    raw_headers.send(kafka.bootstrap_servers, topic, [(b"k", RAW, [(b"\xff", b"1"), (b"label", b"99")])])
    taken = browse.record_of
    monkeypatch.setattr(browse, "record_of", lambda message: taken(Closed(message)))
    (record,) = browse.read(kafka, topic)
    good, (letter,) = codecs.decode([record], classes=10, json_mean=HALF, json_std=HALF)
    assert not good.ids
    assert letter.error == "HeadersUnread"
    assert "not UTF-8" in letter.message


def test_every_binary_key_is_an_image_of_its_own(site: Site) -> None:
    """Its label, which comes later under the same key, meets it."""
    keys = [number.to_bytes(8, "big") for number in range(128, 168)]
    clients.ensure_topics(site.kafka, [site.topics.labels])
    sender = Sender(site.kafka)
    for key in keys:
        sender.send(site.topics.images, key, RAW)
        sender.send(site.topics.labels, key, b'{"label": 3}')
    sender.close(10)
    serving = site.serve()
    serving.until(lambda: sum(len(found.ids) for found in serving.of(events.LabelsMatched)) >= len(keys))
    assert {id for found in serving.of(events.LabelsMatched) for id in found.ids} == {
        f"key:{key.hex()}" for key in keys
    }
    answers = predictions(site.topic("predictions"))
    assert {answer.id for answer in answers} == {f"key:{key.hex()}" for key in keys}
    assert len(answers) == len(keys)


@pytest.mark.parametrize("wrong", ["channels last", "0 to 1"])
def test_serve_reports_images_in_another_layout_or_scale(site: Site, wrong: str) -> None:
    pixels = site.stream_images().pixels[:48].numpy()
    sender = Sender(site.kafka)
    for number, image in enumerate(pixels):
        if wrong == "channels last":
            value = codecs.encode_raw(np.ascontiguousarray(image.transpose(1, 2, 0)).reshape(3, 32, 32))
        else:
            value = codecs.encode_json(image, None, str(number), (0, 0, 0), (1, 1, 1))
        sender.send(site.topics.images, b"%d" % number, value)
    sender.close(10)
    serving = site.serve(idle_timeout=IDLE_S)
    assert serving.result().predicted == len(pixels)
    said = [notice.message for notice in serving.of(events.Notice) if "images" in notice.message]
    assert len([line for line in said if "transpose" in line]) == (wrong == "channels last")
    assert len([line for line in said if "serve.json_mean to [0, 0, 0]" in line]) == (wrong == "0 to 1")
