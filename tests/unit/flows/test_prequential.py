"""`eval --stream`: every image is predicted before its label is learned from, and the figures that come of it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from evaluations import evaluate
from helpers import Home, cifarctl, tagged, tags
from rich.console import Console

from cifarctl import events
from cifarctl.data import Course, Images, Scenario
from cifarctl.flows.stream_evaluation import STEP, Performance, play, strategies
from cifarctl.learning.contestants import Predicts
from cifarctl.registry import Description
from cifarctl.registry.loading import load
from cifarctl.registry.publishing import publish
from cifarctl.ui.contest import ContestView, contest_tables

DRIFT = "invert@100-200"


class Recorder:
    """Predicts class 0 until it has learned, and then the number of times that it has; remembers what it saw when."""

    name, updates, promotions, rollbacks, drifts = "recorder", 0, 0, 0, 0

    def __init__(self) -> None:
        self.predicted: list[int] = []
        self.seen: list[int] = []
        self.known_at: dict[int, int] = {}  # image: how many had been predicted when its label came
        self.times = self.settled = 0
        self.serving: Predicts = self._always(0)

    def see(self, pixels: torch.Tensor) -> Iterator[None]:
        self.seen += tags(Images(pixels, torch.zeros(len(pixels))))
        return iter(())

    def learn(self, ids: Sequence[str], images: Images) -> Iterator[None]:
        assert set(tags(images)) <= set(self.seen), "an image was learned from before it had been seen"
        assert tags(images) == [int(image_id) for image_id in ids]
        self.known_at |= dict.fromkeys(map(int, ids), len(self.predicted))
        self.times += 1
        self.serving = self._always(self.times % 10)
        yield

    def settle(self) -> Iterator[None]:
        assert len(self.seen) == len(self.predicted)
        self.settled += 1
        return iter(())

    def _always(self, label: int) -> Predicts:
        def predict(pixels: torch.Tensor, start: int) -> torch.Tensor:
            assert start == len(self.predicted)
            self.predicted += tags(Images(pixels, torch.zeros(len(pixels))))
            return torch.nn.functional.one_hot(torch.full((len(pixels),), label), 10).float()

        return predict


def played(
    text: str, count: int = 200, rate: float | None = None, recorder: Recorder | None = None
) -> tuple[Recorder, Performance]:
    """A recorder on images that come in the order of their numbers."""
    course = Course(tagged(list(range(count))), Scenario.parse(text), 0, 10)
    course._shuffled = torch.arange(count)
    recorder = recorder or Recorder()
    performance = Performance(recorder, np.zeros(count, dtype=np.bool_))
    passages = [course.take(start, STEP) for start in range(0, count, STEP)]
    assert list(play(performance, passages, rate)) == list(range(STEP, count + 1, STEP))
    return recorder, performance


def test_an_image_is_predicted_before_its_label_comes() -> None:
    recorder, run = played("")
    assert recorder.predicted == list(range(200))
    assert sorted(recorder.known_at) == list(range(200))
    assert all(predicted > image for image, predicted in recorder.known_at.items())
    # What was learned serves with the next images: class n is right for a tenth of them.
    assert recorder.times == recorder.settled == 200 // STEP
    assert run.correct.sum() == pytest.approx(20, abs=4)


def test_late_labels_come_late_and_withheld_ones_never() -> None:
    recorder, _ = played("late:60@50-200,labelled:0@0-25")
    assert set(recorder.known_at) == {*range(25, 50), *range(50, 140)}
    for image, predicted in recorder.known_at.items():
        assert predicted - STEP <= image + (60 if image >= 50 else 0) < predicted


def test_on_a_clock_an_update_takes_effect_when_it_is_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is replaced after a second serves from then on; at work for 2.5 s, it takes in nothing else meanwhile."""
    now = 0.0

    class Slow(Recorder):
        def learn(self, ids: Sequence[str], images: Images) -> Iterator[None]:
            nonlocal now
            for done in super().learn(ids, images):
                now += 1.0
                yield done
            now += 1.5

    monkeypatch.setattr("cifarctl.flows.stream_evaluation.time.perf_counter", lambda: now)
    recorder, run = played("", rate=50, recorder=Slow())
    assert recorder.times == recorder.settled == 2
    assert {recorder.known_at[image] for image in range(STEP)} == {STEP}
    assert {recorder.known_at[image] for image in range(STEP, 6 * STEP)} == {6 * STEP}
    # Class 0 for the first 75 images, of which 25 came before the first update began, then class 1.
    labels = torch.arange(200) % 10
    expected = torch.where(torch.arange(200) < 3 * STEP, labels == 0, labels == 1)
    assert run.correct.tolist() == expected.tolist()


def test_the_figures_of_a_version_left_alone_are_what_it_gets(home: Home) -> None:
    document = evaluate(home, "--stream", DRIFT, "--images", "200", "--compare", "frozen")
    assert (document["stream"], document["images"], document["version"]) == (DRIFT, 200, 1)
    (result,) = document["results"]
    passage = Course(home.dataset.train.take(home.split.stream), Scenario.parse(DRIFT), 0, 10).take(0, 200)
    right = load(home.registry, 1).predictor()(passage.pixels).argmax(dim=1) == passage.concept
    assert result["strategy"] == "frozen"
    assert result["prequential_accuracy"] == pytest.approx(right.double().mean().item())
    assert [(phase["name"], phase["start"], phase["end"]) for phase in result["phases"]] == [
        ("clean", 0, 100),
        ("invert", 100, 200),
    ]
    for phase in result["phases"]:
        assert phase["accuracy"] == pytest.approx(right[phase["start"] : phase["end"]].double().mean().item())
    assert result["final"].keys() == {"clean", "invert"}
    assert (result["updates"], result["promotions"], result["recovered_share"]) == (0, 0, None)


@pytest.mark.parametrize(
    ("words", "code", "story"),
    [
        (("--stream", "swop@1-2"), 2, "no operation 'swop'"),
        (("--stream", "none", "--compare", "frozen,magic"), 2, "--compare magic: no such strategy"),
        (("--stream", "classes:1@0-200"), 2, "asks for a class that has no image left"),
        (("--stream", "classes:12@0-200"), 2, "there is no class 12"),
        (("--stream", "none", "--min-accuracy", "0.5"), 2, "--min-accuracy and --confusion"),
        (("--seeds", "2"), 2, "require --stream"),
        (("--stream", "none", "--images", "30", "--compare", "frozen", "--report", "x.png"), 2, "must end in .html"),
        (("--stream", "none", "--set=data.split_seed=9"), 3, "was trained on another split"),
        (("--stream", "none", "--version", "7"), 4, "version 7"),
    ],
)
def test_what_cannot_be(words: tuple[str, ...], code: int, story: str, home: Home) -> None:
    ran = cifarctl("eval", *home.options, *words)
    assert ran.exit_code == code, ran.stderr
    assert story in " ".join(ran.stderr.split())


def test_a_version_that_has_learned_online_is_refused(home: Home) -> None:
    loaded = load(home.registry, 1)
    description = Description.like(loaded.manifest, settings={}, metrics={}, parent=1, origin="learner")
    version = publish(home.registry, loaded.model, description).version
    ran = cifarctl("eval", "--stream", "none", "--version", str(version), *home.options)
    assert ran.exit_code == 3
    assert f"version {version} has learned online from what `produce` streams" in " ".join(ran.stderr.split())


def result(strategy: str, seed: int, accuracy: float) -> events.StrategyResult:
    phases = [events.Phase("clean", 0, 50, accuracy), events.Phase("invert", 50, 100, accuracy / 2)]
    return events.StrategyResult(
        strategy, seed, accuracy, None, phases, {"clean": accuracy}, [60], [10], 0, 4, 2, 1, 3.0, [accuracy] * 4
    )


def test_what_people_see() -> None:
    view = ContestView()
    told: list[events.ContestEvent] = [
        events.ContestStarted("covariate", "", 3, 100, ("frozen", "online"), 2, 20.0),
        events.ContestProgress("frozen", 0, 50, 0.5),
        result("frozen", 0, 0.5),
        events.ContestProgress("online", 0, 0, None),
    ]
    for event in told:
        view.update(event)
    console = Console(width=100, record=True, color_system=None, file=io.StringIO())
    console.print(view.render())
    results = [result("frozen", 0, 0.5), result("frozen", 1, 0.6), result("online", 0, 0.7), result("online", 1, 0.7)]
    console.print(contest_tables(events.StreamResult("covariate", "", 3, 100, 20.0, "replay", results)))
    text = console.export_text()
    for words in ("covariate, 100 images, 20 images/s", "preparing", "55.0 % ± 7.1", "70.0 % ± 0.0", "50–100"):
        assert words in text
    narrow = Console(width=80, record=True, color_system=None, file=io.StringIO())
    narrow.print(contest_tables(events.StreamResult("covariate", "", 3, 100, 20.0, "replay", results)))
    assert "55.0 % ± 7.1" in narrow.export_text()
    assert list(view.lines(told[2])) == ["frozen, seed 0: prequential accuracy 50.0 %, 4 updates, 2 promotions, 3 s"]


def test_the_names_are_told() -> None:
    assert strategies() == [
        "frozen", "tutorial", "der++", "er-ace", "finetune", "mixture", "replay", "online", "oracle",
    ]  # fmt: skip
