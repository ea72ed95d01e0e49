"""`registry compare`: two versions side by side on images that are new to both."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from helpers import ALL, Home, cifarctl, republish, spoil
from torch import nn

from cifarctl.registry import validation
from cifarctl.registry.loading import load


def compare(home: Home, *versions: int | str) -> Any:
    ran = cifarctl("registry", "compare", *map(str, versions), "--json", *home.options)
    assert ran.exit_code == 0, ran.stderr
    return json.loads(ran.stdout)


def shaken(model: nn.Module) -> None:
    """Make it err now and then."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter += 0.02 * torch.randn(parameter.shape, generator=generator)


def rights(home: Home, version: int) -> torch.Tensor:
    images = home.dataset.train.take(home.split.validation)
    return load(home.registry, version).predictor()(images.pixels).argmax(dim=1) == images.labels


def chance(one: int, other: int) -> float:
    """How often so many coins fall at least as unevenly."""
    coins = one + other
    return sum(math.comb(coins, heads) for heads in range(coins + 1) if abs(2 * heads - coins) >= abs(one - other)) / (
        2**coins
    )


def test_the_figures_are_those_of_the_validation_images(home: Home) -> None:
    second = republish(home.registry, shaken)
    document = compare(home, "production", second)
    first_right, second_right = rights(home, 1), rights(home, second)
    assert document["images"] == len(home.split.validation)
    assert [version["version"] for version in document["versions"]] == [1, second]
    for version, right in zip(document["versions"], (first_right, second_right), strict=True):
        assert version["accuracy"] == pytest.approx(right.double().mean().item())
        assert version["metrics"] == home.registry.manifest(version["version"]).metrics
        labels = home.dataset.train.labels[home.split.validation]
        assert version["per_class"] == {
            name: pytest.approx(right[labels == label].double().mean().item())
            for label, name in enumerate(home.dataset.classes)
        }
    one, other = int((first_right & ~second_right).sum()), int((second_right & ~first_right).sum())
    assert other > 0, "the test needs images that only the second gets right"
    assert (document["only_first_right"], document["only_second_right"]) == (one, other)
    assert document["p_value"] == pytest.approx(chance(one, other))


def test_the_order_is_the_one_asked_for_and_changes_no_verdict(home: Home) -> None:
    second = republish(home.registry, shaken)
    there, back = compare(home, 1, second), compare(home, second, 1)
    assert there["versions"] == back["versions"][::-1]
    assert there["only_first_right"] == back["only_second_right"]
    assert there["p_value"] == back["p_value"]


def test_a_version_is_as_good_as_itself(home: Home) -> None:
    document = compare(home, 1, 1)
    assert (document["only_first_right"], document["only_second_right"], document["p_value"]) == (0, 0, 1.0)


@pytest.mark.parametrize(("change", "verdict"), [(spoil, "version 1 is better"), (lambda _: None, "no difference")])
def test_the_verdict_in_words(home: Home, change: Any, verdict: str) -> None:
    second = republish(home.registry, change)
    ran = cifarctl("registry", "compare", "1", str(second), *home.options)
    assert ran.exit_code == 0, ran.stderr
    assert verdict in " ".join(ran.stdout.split())
    assert home.dataset.classes[0] in ran.stdout


@pytest.mark.parametrize(
    ("split", "story"),
    [
        ({"sha256": "ab" * 32}, "were trained on different splits of the images"),
        ({"seen": ALL}, "version 2 was trained on the validation images"),
    ],
)
def test_what_cannot_be_compared_is_refused(home: Home, split: dict[str, Any], story: str) -> None:
    second = republish(home.registry, **split)
    ran = cifarctl("registry", "compare", "1", str(second), *home.options)
    assert ran.exit_code == 4
    assert story in " ".join(ran.stderr.split())


def test_without_validation_images_the_remedy_is_named(home: Home) -> None:
    validation.path(home.registry, home.split.sha256).unlink()
    ran = cifarctl("registry", "compare", "1", "1", *home.options)
    assert ran.exit_code == 4
    assert "`cifarctl eval`" in " ".join(ran.stderr.split())
    assert cifarctl("eval", *home.options).exit_code == 0
    assert compare(home, 1, 1)["images"] == len(home.split.validation)
