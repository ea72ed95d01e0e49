"""DER++: experience replay that also matches the logits that the model had when it first saw an image.

The loss is the cross-entropy of recent images, plus `ALPHA` times the squared error of the stored logits of one
replayed sample, plus `BETA` times the cross-entropy of another. The memory is a plain reservoir of the stream (Vitter
1985). Source: Buzzega et al. 2020, Dark Experience for General Continual Learning: a Strong, Simple Baseline (NeurIPS).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from typing_extensions import override

from cifarctl.data import Images
from cifarctl.models.preprocess import normalise
from cifarctl.online.fit import Lesson, fit, join, sample
from cifarctl.online.strategies import Continual, Start, Strategy

ALPHA = 0.3  # weight of the stored logits; higher: forgets less, adapts more slowly
BETA = 0.5  # weight of replayed labels; as `ALPHA`
CAPACITY = 2000  # images in the memory (6 MiB); more: forgets less, larger checkpoints


def begin(start: Start) -> Strategy:
    """A lineage with a memory of images, labels and its own logits."""
    return _DarkExperience(start)


class _DarkExperience(Continual):
    """The memory is kept on `step_back`."""

    def __init__(self, start: Start) -> None:
        super().__init__(start, self._teach)
        self._pixels = torch.zeros((CAPACITY, 3, 32, 32), dtype=torch.uint8)
        self._labels = torch.zeros(CAPACITY, dtype=torch.int64)
        self._logits = torch.zeros((CAPACITY, start.classes))
        self._seen = 0

    def _teach(self, model: nn.Module, lesson: Lesson) -> nn.Module:
        self._remember(model, lesson)
        held = min(self._seen, CAPACITY)
        memory = Images(self._pixels[:held], self._labels[:held])
        third = max(1, lesson.batch_size // 3)
        dark = torch.empty(0)

        def draw() -> tuple[torch.Tensor, torch.Tensor]:
            nonlocal dark
            index = torch.randint(max(1, held), (third if held else 0,), generator=lesson.generator)
            dark = self._logits[index]
            batch = join(
                memory.take(index),
                sample(memory, third, lesson.generator),
                sample(lesson.recent, third, lesson.generator),
            )
            return lesson.present(batch), batch.labels

        def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            first, second = len(dark), len(dark) * 2
            new = functional.cross_entropy(logits[second:], labels[second:])
            if not first:
                return new
            matched = functional.mse_loss(logits[:first], dark)
            return new + ALPHA * matched + BETA * functional.cross_entropy(logits[first:second], labels[first:second])

        return fit(model, lesson, draw, loss)

    def _remember(self, model: nn.Module, lesson: Lesson) -> None:
        with torch.inference_mode():
            logits = model(normalise(lesson.new.pixels, lesson.mean, lesson.std)).float()
        for pixels, label, answer in zip(lesson.new.pixels, lesson.new.labels, logits, strict=True):
            slot = self._seen
            if self._seen >= CAPACITY:
                slot = int(torch.randint(self._seen + 1, (1,), generator=lesson.generator))
            self._seen += 1
            if slot < CAPACITY:
                self._pixels[slot], self._labels[slot], self._logits[slot] = pixels, label, answer

    @override
    def dump(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        held = min(self._seen, CAPACITY)
        memory = {"pixels": self._pixels[:held], "labels": self._labels[:held], "logits": self._logits[:held]}
        model, state = super().dump()
        return memory | {f"model.{name}": tensor for name, tensor in model.items()}, state | {"seen": self._seen}

    @override
    def load(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        self._seen = state["seen"]
        held = len(tensors["labels"])
        self._pixels[:held], self._labels[:held] = tensors["pixels"], tensors["labels"]
        self._logits[:held] = tensors["logits"]
        model = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
        super().load(model, state)
