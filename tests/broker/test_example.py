"""The strategy of examples/streaming-lda, installed as its users install it, and the page that explains it."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import DATA, Home, cifarctl

from cifarctl import Scenario, Settings, evaluate_stream, load_version
from cifarctl.data import Images
from cifarctl.errors import SettingsError
from cifarctl.learning.lineage import start_of
from cifarctl.models import build
from cifarctl.online import strategies
from cifarctl.online.fit import Lesson
from cifarctl.online.strategies import Start, Strategy
from cifarctl.settings import OnlineSettings

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "streaming-lda"
PAGE = (ROOT / "docs" / "strategies.md").read_text()
NAME, MODULE = "streaming-lda", "cifarctl_streaming_lda"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example's package, put there by pip without a network."""
    target = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    ran = subprocess.run([*pip, "--target", str(target), str(EXAMPLE)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return target


@pytest.fixture
def package(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The package where Python finds it."""
    monkeypatch.syspath_prepend(installed)
    yield importlib.import_module(MODULE)
    del sys.modules[MODULE]


def lesson_of(home: Home, start: Start, new: Images) -> Lesson:
    return Lesson(
        recent=new,
        new=new,
        reservoir=new.take(torch.arange(0)),
        reference=home.dataset.train.take(home.split.train),
        arrived=new.pixels,
        apart=new.take(torch.arange(0)),
        drifted=False,
        moved=False,
        scarce=False,
        mean=start.mean,
        std=start.std,
        steps=1,
        batch_size=32,
        learning_rate=1e-3,
        precision="float32",
        generator=start.generator,
        on_step=lambda: None,
    )


def begun(home: Home) -> tuple[Start, Strategy]:
    model = load_version(home.registry, "production")
    start = start_of(model, torch.Generator().manual_seed(0), OnlineSettings())
    return start, strategies.strategy(NAME)(start)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


# --- the example


@pytest.mark.usefixtures("package")
def test_it_follows_a_drift_that_defeats_the_version_it_began_with(trained: Home) -> None:
    contest = evaluate_stream(
        load_version(trained.registry, "production"),
        trained.dataset,
        Scenario.parse("invert@100-400"),
        Settings(data=DATA),
        compare=["frozen", NAME],
        images=400,
    )
    *_, result = contest
    frozen, learned = result.results
    assert [phase.name for phase in learned.phases] == ["clean", "invert"]
    assert learned.updates == 3
    assert learned.phases[-1].accuracy > frozen.phases[-1].accuracy + 0.1


@pytest.mark.usefixtures("package")
def test_the_learner_runs_it_with_its_gate(home: Home) -> None:
    """From the command line, chosen by the setting; its snapshots go through a registry and back."""
    quick = [f"--set=online.{value}" for value in (f"strategy={NAME}", "update_every=60", "min_examples=30")]
    words = ("--stream", "invert@50-200", "--images", "200", "--compare", "online", "--json")
    ran = cifarctl("eval", *words, *quick, *home.options)
    assert ran.exit_code == 0, ran.stderr
    document = json.loads(ran.stdout)
    assert document["online_strategy"] == NAME
    assert document["results"][0]["updates"] >= 2


@pytest.mark.usefixtures("package")
def test_what_the_learner_relies_on(trained: Home) -> None:
    """A snapshot never changes, can be built anew, and a lineage goes on from its dump as if it had never ended."""
    stream = trained.dataset.train.take(trained.split.stream)
    start, lineage = begun(trained)
    first = lineage.propose(lesson_of(trained, start, stream.take(torch.arange(100))))
    kept = weights(first.model)
    assert not same(kept, weights(start.snapshot.model))
    build(first.architecture, first.arguments).load_state_dict(kept)

    start_again, again = begun(trained)
    again.load(*lineage.dump())
    nothing = lesson_of(trained, start, stream.take(torch.arange(0)))
    more = stream.take(torch.arange(100, 200))
    second = lineage.propose(lesson_of(trained, start, more))
    assert same(weights(again.propose(lesson_of(trained, start_again, more)).model), weights(second.model))
    assert same(weights(first.model), kept)
    assert same(weights(lineage.propose(nothing).model), weights(second.model))


@pytest.mark.usefixtures("package")
def test_the_statistics_are_those_of_the_paper(
    trained: Home, package: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a memory without end: the means of the classes, and the covariance within them."""
    monkeypatch.setattr(package, "MEMORY", 1_000_000_000)
    start, lineage = begun(trained)
    images = trained.dataset.train.take(trained.split.train[:300])
    lesson = dataclasses.replace(lesson_of(trained, start, images), reference=images.take(torch.arange(0)))
    lineage.propose(lesson)
    statistics: Any = lineage
    body = start.snapshot.model
    assert isinstance(body, torch.nn.Sequential)
    with torch.no_grad():
        pixels = (images.pixels / 255 - torch.tensor(start.mean).view(3, 1, 1)) / torch.tensor(start.std).view(3, 1, 1)
        features = body[:-1](pixels)
    for label in range(10):
        torch.testing.assert_close(
            statistics.means[label], features[images.labels == label].mean(dim=0), rtol=1e-3, atol=1e-3
        )
    assert statistics.counts.sum() == 300
    torch.testing.assert_close(statistics.covariance, statistics.covariance.T)


@pytest.mark.usefixtures("package")
def test_a_network_without_a_linear_end_is_refused(trained: Home) -> None:
    start, _ = begun(trained)
    body = torch.nn.Sequential(start.snapshot.model, torch.nn.ReLU())
    other = dataclasses.replace(start, snapshot=dataclasses.replace(start.snapshot, model=body))
    with pytest.raises(SettingsError, match="streaming-lda: needs a network that ends in a linear layer"):
        strategies.strategy(NAME)(other)


# --- the page


def test_the_page_knows_the_whole_protocol() -> None:
    members = {name for name in vars(Strategy) if not name.startswith("_")} | set(Strategy.__annotations__)
    fields = {field.name for kind in (Start, Lesson) for field in dataclasses.fields(kind)}
    explained = set(re.findall(r"`(\w+)(?:\([^)]*\))?`", PAGE))
    assert members >= {"observe", "propose", "revise", "step_back", "dump", "load", "unlabelled"}
    assert (members | fields) - explained == set()


def test_the_page_registers_what_the_example_registers() -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    assert block in (EXAMPLE / "pyproject.toml").read_text()
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists()


@pytest.mark.usefixtures("package")
def test_the_python_of_the_page_runs(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the folder ``registry`` holds a version and the data set is small."""
    monkeypatch.setenv("CIFARCTL_DATA__SOURCE", DATA.source)
    monkeypatch.setenv("CIFARCTL_DATA__SYNTHETIC_IMAGES", str(DATA.synthetic_images))
    assert home.registry.dir == Path("registry").absolute()
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(block, {})
