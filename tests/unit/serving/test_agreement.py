"""Agreement of a backend with the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cifarctl.serving.agreement import Agreement, compare


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cifarctl" / "backends"


def one_hot(classes: list[int]) -> torch.Tensor:
    return torch.eye(3)[classes]


def test_agreement_counts_classes_and_accuracy() -> None:
    found = compare(one_hot([0, 1, 2, 0]), one_hot([0, 1, 2, 1]), torch.tensor([0, 1, 1, 1]))
    assert found == Agreement(images=4, same=0.75, accuracy=0.5, reference=0.75)
    assert not found.ok
    assert str(found) == (
        "the same class on 75.00% of 4 validation images, accuracy 50.00% against 75.00%; "
        "99.5% and 0.2 points are required"
    )


def test_nan_agrees_with_nothing() -> None:
    assert compare(one_hot([0, 0]) * float("nan"), one_hot([0, 0]), torch.tensor([0, 0])).same == 0.0


@pytest.mark.parametrize(
    ("differing", "wrong", "ok"), [(0, 0, True), (5, 2, True), (6, 0, False), (5, 3, False), (0, 3, False)]
)
def test_where_the_line_is(differing: int, wrong: int, ok: bool) -> None:
    for sign in (1, -1):
        assert Agreement(1000, 1 - differing / 1000, 0.7 + sign * wrong / 1000, 0.7).ok is ok


@given(
    st.dictionaries(
        st.sampled_from(["images", "same", "accuracy", "reference", "x"]), st.none() | st.text() | st.floats()
    )
)
def test_a_damaged_record_of_agreement_is_none(value: dict[str, Any]) -> None:
    whole = {"images", "same", "accuracy", "reference"}
    usable = whole <= value.keys() and all(
        isinstance(value[name], float) and np.isfinite(value[name]) for name in whole
    )
    assert (Agreement.parse(value) is not None) == usable
