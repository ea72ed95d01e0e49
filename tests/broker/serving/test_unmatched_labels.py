"""Notices of serve about unmatched labels and wrong clocks."""

from __future__ import annotations

import re
import time

from confluent_kafka import Producer
from processes import Site

from cifarctl import events
from cifarctl.stream import label_records
from cifarctl.stream.sender import Sender

HOUR_MS = 3_600_000


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}-{number}" for number in range(count)]


def test_serve_and_its_learner_say_that_labels_match_nothing(site: Site) -> None:
    site.send(10, produce__unlabelled=1)
    sender = Sender(site.kafka)
    for name in names("typo", 200):
        sender.send(site.topics.labels, name.encode(), label_records.encode_label(name, 1))
    sender.close(30)
    told = "200 of 200 labels on"
    serve = site.start("serve", "--json", online__label_wait=2)
    serve.await_line(told)
    serve.press_ctrl_c()
    assert serve.wait() == 130, serve.err
    assert serve.document["labels_unmatched"] == 200
    assert serve.err.count(told) == 1
    retrain = site.call("retrain", "--json", online__label_wait=600)
    assert retrain.exit_code == 7
    assert told in retrain.stderr


def test_serve_tells_no_latency_by_clocks_that_are_wrong(site: Site) -> None:
    site.topic("images")
    now_ms = round(time.time() * 1000)
    producer = Producer({"bootstrap.servers": site.kafka.bootstrap_servers})
    for number, moment in enumerate([now_ms + HOUR_MS, 1, now_ms + HOUR_MS]):
        producer.produce(site.topics.images, bytes(3072), b"%d" % number, timestamp=moment)
    producer.flush()
    serving = site.serve(max_messages=3)
    result = serving.result()
    assert result.latency_ms == {"p50": None, "p95": None, "p99": None, "p999": None}
    assert result.latency_left_out == 3
    told = " ".join(notice.message for notice in serving.of(events.Notice))
    assert re.search(r"the producer's clock is 3,[0-9]{3} s ahead", told)
    assert "days ago" in told
