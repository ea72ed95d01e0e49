"""cifarctl as a library: the public names, their examples, arrays in and probabilities out."""

from __future__ import annotations

import doctest
import importlib.resources
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import DATA, TRAIN, Home
from processes import Site

import cifarctl
from cifarctl.errors import DataError

ROOT = Path(__file__).parents[2]
OFFLINE = sorted(set(cifarctl.__all__) - {"serve"})


def run_examples(name: str, documented: Any) -> None:
    """Run the examples of one docstring, and fail with what they printed where that is not what they say."""
    (found,) = doctest.DocTestFinder(recurse=False).find(documented, name, module=False, globs={})
    assert found.examples, f"{name} has no example"
    told: list[str] = []
    outcome = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(found, out=told.append)
    assert outcome.failed == 0, "".join(told)


@pytest.fixture
def settled(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory whose folder ``registry`` holds a version, and whose data set is small and synthetic."""
    assert home.registry.dir == Path("registry").absolute()
    monkeypatch.setenv("CIFARCTL_DATA__SOURCE", DATA.source)
    monkeypatch.setenv("CIFARCTL_DATA__SYNTHETIC_IMAGES", str(DATA.synthetic_images))


# --- names


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("name", OFFLINE)
def test_the_example_of_each_public_name_runs(name: str) -> None:
    run_examples(name, getattr(cifarctl, name))


@pytest.mark.usefixtures("settled")
def test_the_python_of_the_readme_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    defined: dict[str, Any] = {}
    exec(block, defined)
    assert defined["probabilities"].shape == (1, 10)


def test_the_example_of_serve_runs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.send(5)
    for name, value in site.variables().items():
        monkeypatch.setenv(name, value)
    run_examples("serve", cifarctl.serve)


def test_a_wrong_example_fails() -> None:
    def wrong() -> None:
        """
        >>> 1 + 1
        3
        """

    with pytest.raises(AssertionError, match=r"Expected:\n +3\n +Got:\n +2"):
        run_examples("wrong", wrong)


def test_importing_the_package_imports_nothing_else() -> None:
    """Names come when they are asked for; `registry` and `settings` without torch."""
    code = (
        "import sys, cifarctl\n"
        "assert set(cifarctl.__all__) <= set(dir(cifarctl))\n"
        "assert [name for name in sys.modules if name.startswith('cifarctl.')] == []\n"
        "cifarctl.Registry(cifarctl.Settings().registry)\n"
        "assert not {'torch', 'confluent_kafka'} & sys.modules.keys()\n"
        "from cifarctl import *\n"
        "assert 'torch' in sys.modules\n"
        "assert cifarctl.load_version is load_version\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(AttributeError, match="module 'cifarctl' has no attribute 'sevre'"):
        cifarctl.sevre  # noqa: B018


def test_type_checkers_see_the_exported_names() -> None:
    """The imports for type checkers and those at run time name the same things."""
    source = (ROOT / "cifarctl" / "__init__.py").read_text()
    typed: dict[str, Any] = {}
    exec(source.replace("if TYPE_CHECKING:", "if True:"), {"__name__": "cifarctl"}, typed)
    assert {name: typed[name] for name in cifarctl.__all__} == {
        name: getattr(cifarctl, name) for name in cifarctl.__all__
    }
    assert set(typed["_HOMES"]) == set(cifarctl.__all__)


def test_the_wheel_says_that_it_is_typed(tmp_path: Path) -> None:
    assert importlib.resources.files(cifarctl).joinpath("py.typed").is_file()
    build = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert "cifarctl/py.typed" in zipfile.ZipFile(wheel).namelist()


# --- predict


def test_arrays_and_tensors_of_either_order_give_the_same(trained: Home) -> None:
    model = cifarctl.load_version(trained.registry, "production")
    pixels = trained.dataset.test.pixels[:150]
    expected = model.predictor()(pixels)
    pictures = pixels.permute(0, 2, 3, 1).numpy()
    before = pictures.copy()
    pictures.flags.writeable = False  # as Pillow's
    for images in (pixels, pixels.numpy(), pixels.permute(0, 2, 3, 1), pictures, pictures[::-1][::-1]):
        found = cifarctl.predict(model, images)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected)
    assert (pictures == before).all()
    torch.testing.assert_close(cifarctl.predict(model, pictures[::-1]), expected.flip(0))
    torch.testing.assert_close(expected.sum(dim=1), torch.ones(150))
    assert cifarctl.predict(model, pictures[:0]).shape == (0, 10)


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        (np.zeros((2, 32, 32, 3)), "images are float64: give uint8"),
        (torch.zeros(2, 3, 32, 32), "images are float32: give uint8"),
        (np.zeros((32, 32, 3), np.uint8), r"the shape \(32, 32, 3\): give .*; one image is image\[None\]"),
        (np.zeros((2, 28, 28), np.uint8), r"the shape \(2, 28, 28\)"),
    ],
)
def test_other_arrays_are_refused(trained: Home, images: Any, complaint: str) -> None:
    model = cifarctl.load_version(trained.registry, 1)
    with pytest.raises(DataError, match=complaint):
        cifarctl.predict(model, images)


def test_the_settings_decide_how_a_library_trains(tmp_path: Path) -> None:
    """As the command: an architecture of one's own is trusted by who trains it, the split is that of the settings."""
    from cifarctl.data import load, split
    from cifarctl.settings import DataSettings, RegistrySettings

    own = DataSettings(source="synthetic", synthetic_images=500, split=(0.5, 0.3, 0.2), split_seed=3)
    settings = cifarctl.Settings(
        data=own, train=TRAIN.model_copy(update={"epochs": 1}), registry=RegistrySettings(dir=tmp_path / "models")
    )
    dataset = load(own)
    *_, result = cifarctl.train(dataset, settings)
    manifest = cifarctl.Registry(settings.registry).manifest(result.version)
    assert manifest.split.sha256 == split(dataset.train.labels, own.split, own.split_seed).sha256
    assert manifest.split.shares == own.split
