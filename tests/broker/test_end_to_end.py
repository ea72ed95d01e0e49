"""The whole loop through the command line: produce, serve, learn, promote, swap; and what is killed on the way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
from brisk import BRISK
from filelock import FileLock
from processes import PATIENCE_S, Site, committed, ids, learner_of, predictions

from cifarctl.flows import retrain
from cifarctl.stream import browse

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
    "by_version",
}
ONLINE_FIELDS = SERVE_FIELDS | {"buffer", "retrains", "promotions", "rollbacks"}
PRODUCE_FIELDS = {"sent", "failed", "seconds", "messages_per_second"}


def test_a_drift_is_learned_and_the_better_version_swapped_in(site: Site) -> None:
    images, answers = site.topic("images"), site.topic("predictions")
    serve = site.start("serve", "--online", "--json", **BRISK, serve__backend="auto", serve__precision="auto")
    clean = 300
    produce = site.start("produce", "--rate", "80", "--drift", f"invert@{clean}-1000000", "--json")
    for line in ("learner started", "drift: error", "promoted version", "now serving version"):
        serve.await_line(line)
    serve.until(lambda: sum(answer.model_version > 1 for answer in predictions(answers)) >= 150)

    produce.press_ctrl_c()
    assert produce.wait() == 130, produce.err
    sent = produce.document
    assert sent.keys() >= PRODUCE_FIELDS
    images.await_records(sent["sent"])
    assert len(set(ids(images))) == sent["sent"]
    assert sent["failed"] == 0
    assert sent["messages_per_second"] == pytest.approx(sent["sent"] / sent["seconds"])

    answers.await_records(sent["sent"])  # each once, since nothing was killed
    assert {answer.id for answer in predictions(answers)} == set(ids(images))
    serve.signal(signal.SIGTERM)
    assert serve.wait() == 0, serve.err
    result = serve.document
    assert result.keys() >= ONLINE_FIELDS
    assert result["latency_ms"].keys() == {"p50", "p95", "p99", "p999"}
    assert result["predicted"] == result["labelled"] == sent["sent"]
    assert result["dead_lettered"] == 0
    correct = [answer.correct for answer in predictions(answers)]
    assert result["accuracy"] == pytest.approx(np.mean([bool(right) for right in correct]))
    assert 0 < result["buffer"]["size"] <= result["buffer"]["capacity"] == 400
    assert result["retrains"] >= 1
    assert result["promotions"] >= 1  # perhaps more: weights that shift are promoted between updates
    assert result["swaps"] >= 1
    assert committed(site) == sent["sent"]

    told = list(dict.fromkeys(answer.model_version for answer in sorted(predictions(answers), key=when)))
    assert told == result["model_versions"][: len(told)]  # a version taken at the very end has served nothing
    shas = {answer.model_version: answer.model_sha256 for answer in predictions(answers)}
    assert shas == {version: site.registry.manifest(version).sha256 for version in told}
    moves = [move for move in site.registry.history() if move.action == "promote" and move.who == "learner"]
    assert len(moves) == result["promotions"]

    # Better by the gate on what it held out, and so on what was served.
    drifted = [answer for answer in predictions(answers) if int(answer.id.partition("-")[2]) >= clean]
    accuracy = {
        later: np.mean([bool(answer.correct) for answer in drifted if (answer.model_version > 1) == later])
        for later in (False, True)
    }
    assert accuracy[True] > accuracy[False]


def learner_lock(site: Site) -> AbstractContextManager[object]:
    """The lock that the learner of the site's registry works under, once it is free."""
    return FileLock(site.folder / "registry" / "learner" / "production.lock").acquire(timeout=PATIENCE_S)


def when(answer: Any) -> tuple[int, int]:
    return answer.predicted_at, answer.model_version


def test_serve_killed_in_mid_stream_loses_nothing(site: Site) -> None:
    """Its learner leaves too. Ctrl-C ends the successor with 130, all that it read answered, committed and told."""
    images, answers = site.topic("images"), site.topic("predictions")
    producing = site.keep_producing(rate=300)
    first = site.start("serve", "--online", "--json", online__min_examples=1_000_000)
    first.await_ready()
    first.await_line("learner started")
    first.until(lambda: len(answers.look()) >= 300)
    first.kill()
    assert first.out == ""
    count = producing.finish().sent + 20
    site.send(20)  # at least these are left to the successor
    with learner_lock(site):  # it is free once the first one's learner has left
        pass

    second = site.start("serve", "--json")
    second.await_ready()
    images.await_records(count)
    second.until(lambda: {answer.id for answer in predictions(answers)} == set(ids(images)))
    second.press_ctrl_c()
    assert second.wait() == 130, second.err
    assert second.document.keys() >= SERVE_FIELDS
    assert second.document.keys() & {"buffer", "retrains"} == set()
    assert second.document["predicted"] >= 20
    assert committed(site) == count


def test_a_killed_learner_is_started_again_and_nobody_waits_for_it(site: Site) -> None:
    images, answers = site.topic("images"), site.topic("predictions")
    quick = BRISK | {"online__update_every": 60, "online__min_examples": 40, "online__steps": 2}
    serve = site.start("serve", "--online", "--print", "--json", **quick)
    serve.await_line("learner started")
    assert "buffer 0/400)" in serve.err
    producing = site.keep_producing(rate=40)
    serve.until(lambda: list((site.folder / "registry" / "learner").glob("checkpoint-production-*.safetensors")))

    os.kill(learner_of(serve.pid), signal.SIGKILL)
    serve.await_line("learner down: killed by signal 9")
    with learner_lock(site):  # so that the next one cannot start to work before it is let
        answered = len(predictions(answers))
        serve.until(lambda: len(predictions(answers)) >= answered + 20)
        assert serve.err.count("learner started") == 1
    serve.await_line("learner started", times=2)
    size = int(re.findall(r"learner started from version \d+ \(mixture, buffer (\d+)/400\)", serve.err)[1])
    assert size > 0
    # It goes on from there: the buffer that the lines for people show is filled further.
    serve.until(lambda: shown_sizes(serve.err)[-1] > size)

    count = producing.finish().sent
    serve.until(lambda: {answer.id for answer in predictions(answers)} == set(ids(images)))
    assert len(answers.await_records(count)) == count, "an image was predicted twice"
    serve.press_ctrl_c()
    assert serve.wait() == 130, serve.err
    assert serve.document["predicted"] == count
    assert max(shown_sizes(serve.err)) <= serve.document["buffer"]["capacity"] == 400
    assert "Traceback" not in serve.err


def shown_sizes(text: str) -> list[int]:
    """Buffer sizes at the ends of the lines of --print."""
    lines = re.findall(r"^\w{8}-\d{8}  \w+  [01]\.\d\d  (?:correct|wrong \(\w+\))  buffer (\d+)/\d+$", text, re.M)
    assert lines
    return [int(size) for size in lines]


#: Joins a group, reads until its first message, and does nothing more; in a process of its own, which hangs.
HANGING = """
import sys, time
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients

kafka, group, *topics = sys.argv[1:]
kafka = KafkaSettings.model_validate_json(kafka)
consumer = clients.consumer(kafka, group, **clients.group_options(kafka))
consumer.subscribe(topics)
while consumer.poll(1.0) is None:
    pass
print("it holds them", flush=True)
time.sleep(600)
"""


def test_retrain_does_not_wait_forever_for_what_others_keep_from_it(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A learner hangs: it holds the group's partitions, and does not hear that others have come."""
    monkeypatch.setattr(retrain, "STUCK_S", 5.0)
    site.send(20)
    group = f"{site.kafka.group_id}.learner"
    words = [site.kafka.model_dump_json(), group, site.topics.images, site.topics.labels]
    with subprocess.Popen([sys.executable, "-c", HANGING, *words], stdout=subprocess.PIPE, text=True) as hung:
        try:
            assert hung.stdout is not None
            assert hung.stdout.readline() == "it holds them\n"
            refused = site.call("retrain", "--dry-run")
        finally:
            hung.kill()
    assert refused.exit_code == 5, refused.stderr
    assert f"another member of the group {group}" in refused.stderr.splitlines()[-1]


def test_retrain_asks_the_learner_that_is_at_work(site: Site) -> None:
    brisk = BRISK | {"online__update_every": 100_000}
    learner = site.start("retrain", "--follow", "--json", **brisk)
    learner.await_line("learner started")
    few = site.call("retrain", "--json", **brisk)
    assert few.exit_code == 7, few.stderr
    assert json.loads(few.stdout)["outcome"] == "not_enough_data"

    site.send(120)
    group = f"{site.kafka.group_id}.learner"
    learner.until(lambda: sum(browse.committed(site.kafka, site.topics.images, group).values()) == 120)
    asked = site.call("retrain", "--json", **brisk)
    assert asked.exit_code == 6, asked.stderr
    assert "it is asked to learn now" in asked.stderr
    document = json.loads(asked.stdout)
    assert (document["outcome"], document["examples"]) == ("rejected", 120)
    refused = site.call("retrain", "--dry-run", **brisk)
    assert refused.exit_code == 4, refused.stderr
    assert "leave out --dry-run" in refused.stderr
    learner.await_line("retraining (mixture) on 120 new examples: by hand")
    learner.press_ctrl_c()
    assert learner.wait() == 130, learner.err
    assert learner.document["retrains"] == 1
    assert list((site.folder / "registry" / "learner" / "requests" / "production").iterdir()) == []
