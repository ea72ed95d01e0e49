"""Pictures of a training run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from screens import EPOCHS, MISTAKE

from cifarctl import events
from cifarctl.ui.plots import draw_confusion, training_pictures


def test_class_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    names = ("$x^$", r"$\frac$", "\x1b[31m\n")
    confusion = [[1, 0, 0]] * 3
    path = tmp_path / "confusion.svg"
    draw_confusion(events.EvaluateResult(7, 0.5, 0.8, 0.05, dict.fromkeys(names, 0.5), confusion), path)
    drawn = path.read_text()
    for name in ("$x^$", r"$\frac$", r"\x1b[31m\n"):
        assert f"<!-- {name} -->" in drawn
    mistakes = [replace(MISTAKE, predicted=number, label=2) for number in range(2)]
    training_pictures(events.TrainReport(EPOCHS, names, 0.5, confusion, mistakes))
