"""Whole lives of serve and its learner that take a minute or more."""

from __future__ import annotations

import json
import re
import signal

import pytest
from brisk import BRISK
from processes import Site, ids, predictions

from cifarctl import events
from cifarctl.serving.canary_routing import canary_side

RETRAIN_FIELDS = {"outcome", "examples", "champion", "challenger", "reasons", "seconds"}


@pytest.mark.long
def test_a_canary_answers_its_share_until_its_trial_is_over(site: Site) -> None:
    """Clean images, of which there is nothing to be learned, keep it on trial; a drift ends that trial."""
    brisk = BRISK | {"online__update_every": 150, "serve__canary": 0.3}
    answers = site.topic("predictions")
    serve = site.start("serve", "--online", "--json", **brisk)
    serve.await_line("learner started")
    producing = site.keep_producing(rate=60)
    serve.await_line("answers 30.0 % of ids, version 1 the others")
    serve.until(lambda: sum(answer.model_version > 1 for answer in predictions(answers)) >= 20)
    producing.finish()
    producing = site.keep_producing(rate=60, drift="invert@0-1000000", produce__seed=1)
    for line in (" withdrawn, ", "promoted version", "now serving version"):
        serve.await_line(line)
    producing.finish()
    answers.await_records(len(ids(site.topic("images"))))
    serve.signal(signal.SIGTERM)
    assert serve.wait() == 0, serve.err

    moves = site.registry.history("production-canary")
    assert {move.who for move in moves} == {"learner"}
    assert (moves[0].action, moves[-1].action, site.registry.alias("production-canary")) == ("promote", "remove", None)
    result = serve.document
    canaries = {move.to_version for move in moves} - set(result["model_versions"])
    found = predictions(answers)
    aside = [answer.id for answer in found if answer.model_version in canaries]
    assert canary_side(aside, 0.3).all()
    rows = {row["version"]: row for row in result["by_version"]}
    assert sum(row["predicted"] for row in rows.values()) == len(found) == result["predicted"]
    assert sum(rows[version]["labelled"] for version in rows.keys() & canaries) == len(aside) >= 20


@pytest.mark.long
def test_retrain_once(site: Site) -> None:
    """Nothing there: 7. Nothing to be gained: 6, and why. A drifted stream: promoted."""
    brisk = {name: value for name, value in BRISK.items() if name != "online__niceness"}

    nothing = site.call("retrain", "--json", **brisk)
    assert nothing.exit_code == 7, nothing.stderr
    assert json.loads(nothing.stdout)["outcome"] == "not_enough_data"
    assert "online.min_examples" in nothing.stderr.splitlines()[-1]

    site.send(120)
    rejected = site.call("retrain", "--json", **brisk)
    assert rejected.exit_code == 6, rejected.stderr
    document = json.loads(rejected.stdout)
    assert (document["outcome"], document["examples"]) == ("rejected", 120)
    assert document["challenger"]["version"] is None
    line = rejected.stderr.splitlines()[-1]
    assert line.startswith("cifarctl: ")
    assert document["reasons"][0] in line
    assert site.registry.numbers() == [1]
    assert site.registry.history()[-1].action == "reject"

    site.send(450, drift="invert@0-450")
    before = site.registry.history()
    rehearsed = site.call("retrain", "--dry-run", "--json", **brisk)
    assert rehearsed.exit_code == 0, rehearsed.stderr
    told = json.loads(rehearsed.stdout)
    assert (told["outcome"], told["examples"], told["challenger"]["version"]) == ("promoted", 450, None)
    assert (site.registry.numbers(), site.registry.history()) == ([1], before)

    promoted = site.call("retrain", "--json", **brisk)
    assert promoted.exit_code == 0, promoted.stderr
    document = json.loads(promoted.stdout)
    assert document.keys() >= RETRAIN_FIELDS
    assert (document["outcome"], document["examples"]) == ("promoted", 450)
    assert document["champion"]["version"] == 1
    assert document["challenger"]["version"] == site.registry.resolve("production")
    assert document["challenger"]["stream_accuracy"] > document["champion"]["stream_accuracy"]
    assert document["reasons"]
    assert site.registry.manifest(2).parent == 1
    assert site.registry.history()[-1].who == "learner"


def test_a_learner_of_its_own_reaches_a_plain_serve(site: Site) -> None:
    serving = site.serve()
    learner = site.start("retrain", "--follow", "--json", **BRISK)
    producing = site.keep_producing(rate=80, drift="invert@0-1000000")
    learner.await_line("promoted version 2")
    serving.until(lambda: serving.of(events.Swapped))
    serving.until(lambda: serving.of(events.BatchServed)[-1].version == 2)
    assert serving.of(events.Swapped)[0] == events.Swapped(1, 2)
    learner.until(lambda: re.search("served: .*version 2 ", learner.err))  # it knows what users get
    learner.press_ctrl_c()
    assert learner.wait() == 130, learner.err
    producing.finish()
    result = serving.finish()
    assert type(result) is events.ServeResult  # it knows nothing of a learner
    assert result.model_versions[:2] == [1, 2]
