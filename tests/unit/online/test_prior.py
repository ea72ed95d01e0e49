"""Class frequencies."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lineages import CLASSES, seeded

from cifarctl.online import prior


def told(labels: torch.Tensor, sure: float) -> torch.Tensor:
    """Probabilities of a model that gives so much to the right class."""
    others = (1 - sure) / (CLASSES - 1)
    return torch.full((len(labels), CLASSES), others).scatter_(1, labels[:, None], sure)


def test_absent_classes_are_found() -> None:
    labels = torch.arange(500) % 5
    found = prior.estimate(told(labels, 0.8))
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)
    assert float(found[:5].min()) > 0.15
    assert float(found[5:].max()) < 0.03


def test_frequencies_are_found_by_a_model_that_errs() -> None:
    generator = seeded(0)
    labels = torch.where(
        torch.rand(2000, generator=generator) < 0.7, 3, torch.randint(10, (2000,), generator=generator)
    )
    seen = torch.multinomial(told(labels, 0.6), 1, generator=generator)[:, 0]  # the class that the image looks like
    found = prior.estimate(told(seen, 0.6))
    assert float(found[3]) == pytest.approx(0.73, abs=0.08)
    assert float((seen == 3).float().mean()) < 0.55  # its bare answers tell less


@pytest.mark.parametrize("sure", [0.1, 0.5, 0.99])
def test_equal_frequencies_stay_equal(sure: float) -> None:
    found = prior.estimate(told(torch.arange(300) % CLASSES, sure))
    torch.testing.assert_close(found, torch.full((CLASSES,), 0.1), atol=1e-3, rtol=0)


@given(st.integers(0, 50), st.integers(2, 12), st.floats(0.1, 30), st.integers(0, 99))
def test_frequencies_are_positive_and_sum_to_one(images: int, classes: int, sharpness: float, seed: int) -> None:
    logits = sharpness * torch.randn(images, classes, generator=seeded(seed))
    found = prior.estimate(logits.softmax(dim=1))
    assert found.shape == (classes,)
    assert float(found.min()) > 0
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)
