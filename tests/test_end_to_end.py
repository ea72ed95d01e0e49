"""The whole loop through the command line: produce, serve, learn, promote, swap, and what kills it."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from fixtures_broker import broker, kafka  # noqa: F401  fixtures
from processes import Site, children, ids, learner_of, predictions, site, trained, until  # noqa: F401  fixtures among them

pytestmark = pytest.mark.broker

PRODUCE_FIELDS = {"sent", "failed", "seconds", "messages_per_second"}
SERVE_FIELDS = {
    "predicted",
    "dead_lettered",
    "labelled",
    "accuracy",
    "seconds",
    "messages_per_second",
    "latency_ms",
    "model_versions",
    "swaps",
}
ONLINE_FIELDS = SERVE_FIELDS | {"buffer", "retrains", "promotions", "rollbacks"}
RETRAIN_FIELDS = {"outcome", "examples", "champion", "challenger", "reasons", "seconds"}

#: A learner that decides within seconds.
BRISK: dict[str, Any] = {
    "online__update_every": 800,  # a quarter of it after a drift
    "online__min_examples": 100,
    "online__buffer_size": 600,
    "online__reference_size": 1000,
    "online__steps": 30,
    "online__batch_size": 64,
    "online__niceness": 0,
}


def test_a_drift_is_learned_and_the_better_version_swapped_in(site: Site) -> None:  # noqa: F811
    images, answers = site.topic("images"), site.topic("predictions")
    serve = site.start("serve", "--online", "--json", **BRISK)
    serve.await_line("learner started")
    clean = 400
    produce = site.start("produce", "--rate", "100", "--drift", f"invert@{clean}-1000000", "--json")
    serve.await_line("drift detected")
    serve.await_line("promoted version")
    serve.await_line("now serving version")
    serve.until(lambda: sum(answer.model_version > 1 for answer in predictions(answers)) >= 150)

    produce.press_ctrl_c()
    assert produce.wait() == 130, produce.err
    sent = produce.document
    assert sent.keys() >= PRODUCE_FIELDS
    assert sent["failed"] == 0
    assert sent["sent"] == len(ids(images)) == len(set(ids(images)))
    assert sent["messages_per_second"] == pytest.approx(sent["sent"] / sent["seconds"])

    serve.until(lambda: {answer.id for answer in predictions(answers)} == set(ids(images)))
    serve.signal(signal.SIGTERM)
    assert serve.wait() == 0, serve.err
    print(serve.err)
    document = serve.document
    print(document)
    assert document.keys() >= ONLINE_FIELDS
