"""`eval --stream` with learners in earnest."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluations import evaluate
from helpers import Home, cifarctl

from cifarctl.learning.contestants import gated
from cifarctl.registry.loading import load
from cifarctl.settings import OnlineSettings


def test_what_has_come_during_an_update_is_caught_up_with_before_the_next(home: Home) -> None:
    """As the live learner does: 300 images at once are taken in before the one update."""
    train, split = home.dataset.train, home.split
    online = OnlineSettings(update_every=60, min_examples=30, steps=1, batch_size=32)
    stream = train.take(split.stream[:300])
    with gated(load(home.registry, 1), online, train.take(split.train), train.take(split.validation)) as contestant:
        list(contestant.see(stream.pixels))
        list(contestant.learn([str(number) for number in range(300)], stream))
        assert contestant.updates == 0
        list(contestant.settle())
        assert contestant.updates == 1


def test_what_has_come_without_labels_during_an_update_is_caught_up_with_too(home: Home) -> None:
    train, split = home.dataset.train, home.split
    online = OnlineSettings(update_every=60, min_examples=30, steps=1, batch_size=32)
    stream = train.take(split.stream[:300])
    with gated(load(home.registry, 1), online, train.take(split.train), train.take(split.validation)) as contestant:
        for pixels in (stream.pixels[:100], 255 - stream.pixels[100:]):
            list(contestant.see(pixels))
            assert contestant.updates == 0
            list(contestant.settle())
        assert contestant.updates == 1


@pytest.mark.long
def test_all_of_them_on_one_stream(home: Home, tmp_path: Path) -> None:
    """The order is the one asked for; learning is better than nothing and worse than knowing beforehand."""
    report = tmp_path / "stream.html"
    compared = ["frozen", "tutorial", "finetune", "replay", "er-ace", "online", "oracle"]
    document = evaluate(
        home, "--stream", "invert@80-400", "--images", "320", "--compare", ",".join(compared), "--report", str(report)
    )
    assert [result["strategy"] for result in document["results"]] == compared
    found = {result["strategy"]: result for result in document["results"]}
    assert found["oracle"]["prequential_accuracy"] > found["frozen"]["prequential_accuracy"] + 0.1
    assert (found["frozen"]["recovered_share"], found["oracle"]["recovered_share"]) == (0, 1)
    for name in ("finetune", "replay", "er-ace"):
        assert found[name]["updates"] == 320 // 60
        assert 0 < found[name]["recovered_share"] < 1, name
    assert found["online"]["updates"] > 0
    assert found["oracle"]["phases"][1]["recovered_after"] is not None
    page = report.read_text()
    assert "<svg" in page
    for words in ("version 1 on invert@80-400", *compared, "prequential accuracy by phase"):
        assert words in page


def test_by_default_the_learner_between_its_bounds(home: Home) -> None:
    document = evaluate(home, "--stream", "", "--images", "100", "--seeds", "2")
    assert [(result["strategy"], result["seed"]) for result in document["results"]] == [
        ("frozen", 0),
        ("online", 0),
        ("oracle", 0),
        ("frozen", 1),
        ("online", 1),
        ("oracle", 1),
    ]
    assert document["stream"] == "none"
    first, second = (document["results"][index]["prequential_accuracy"] for index in (0, 3))
    assert first != second  # other images
    assert [version.version for version in home.registry.versions()] == [1]


def test_relabelled_images_are_scored_by_their_current_label(home: Home) -> None:
    scenario = "relabel:3+5@100-200,wrong:1@0-200"
    document = evaluate(home, "--stream", scenario, "--images", "200", "--compare", "frozen,oracle")
    alone, ceiling = document["results"]
    assert ceiling["phases"][1]["accuracy"] > alone["phases"][1]["accuracy"] + 0.05
    assert ceiling["final"]["relabel:3+5 + wrong:1"] > alone["final"]["relabel:3+5 + wrong:1"] + 0.05


def test_a_version_that_has_seen_the_stream_is_refused(home: Home) -> None:
    ran = cifarctl("train", "--epochs", "1", "--full", "--promote", *home.options, "--set=train.threads=1")
    assert ran.exit_code == 0, ran.stderr
    ran = cifarctl("eval", "--stream", "none", *home.options)
    assert ran.exit_code == 3
    assert "was trained on the stream's images" in ran.stderr
