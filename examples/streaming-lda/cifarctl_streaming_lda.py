"""Deep streaming linear discriminant analysis: the features stay, the last layer follows the stream in closed form.

Hayes and Kanan 2020, Lifelong Machine Learning with Deep Streaming Linear Discriminant Analysis (CVPR Workshops). The
features of a class are taken for Gaussian, with a mean of its own and the covariance of all; both are updated by one
image after another, without a gradient. In the paper every image counts the same for ever; here old ones fade, so that
a drift is followed.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from cifarctl.data import Images
from cifarctl.errors import SettingsError
from cifarctl.models.preprocess import normalise
from cifarctl.online.fit import Lesson, sample
from cifarctl.online.strategies import Continual, Start, Strategy

MEMORY = 200  # images that the statistics rest on; each newer one takes 1/200 off the weight of those before
FIRST = 2000  # training images that the statistics begin with: some thirty for each of the 64 features of `net`
SHRINKAGE = 0.01  # of the mean variance, added to each; the paper adds 1e-4 to features of another scale
LEAST = 1e-4  # variance, where there is none: a single image is no reason to divide by zero
STATISTICS = ("means", "counts", "covariance")


def begin(start: Start) -> Strategy:
    """A network whose last layer is a linear discriminant of its features."""
    return StreamingLda(start)


class StreamingLda(Continual):
    """Means (classes, d), covariance (d, d) and counts (classes,) of the d features that the last layer reads."""

    def __init__(self, start: Start) -> None:
        super().__init__(start, self._learn)
        width = _head(start.snapshot.model, start.classes).in_features
        self.means, self.counts = torch.zeros(start.classes, width), torch.zeros(start.classes)
        self.covariance = torch.zeros(width, width)

    @torch.no_grad()
    def _learn(self, model: nn.Module, lesson: Lesson) -> nn.Module:
        model = copy.deepcopy(model)  # snapshots are never changed
        head = _head(model, len(self.counts))
        if not self.counts.any():
            self._take_in(model, head, sample(lesson.reference, FIRST, lesson.generator), lesson)
        self._take_in(model, head, lesson.new, lesson)
        ridge = SHRINKAGE * self.covariance.diagonal().mean().clamp(min=LEAST) * torch.eye(len(self.covariance))
        head.weight.copy_(torch.linalg.solve(self.covariance + ridge, self.means.T).T)
        head.bias.copy_(-(head.weight * self.means).sum(dim=1) / 2)
        return model

    def _take_in(self, model: nn.Module, head: nn.Linear, images: Images, lesson: Lesson) -> None:
        read: list[torch.Tensor] = []
        hook = head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        model(normalise(images.pixels, lesson.mean, lesson.std))
        hook.remove()
        for features, label in zip(read[-1], images.labels.tolist(), strict=True):
            lesson.on_step()
            apart = features - self.means[label]
            total = float(self.counts.sum().clamp(max=MEMORY))
            self.covariance += (torch.outer(apart, apart) * total / (total + 1) - self.covariance) / (total + 1)
            self.counts[label] += 1
            self.means[label] += apart / min(float(self.counts[label]), MEMORY / len(self.counts))

    def dump(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The model's tensors and the statistics."""
        model, state = super().dump()
        return model | {f"lda.{name}": getattr(self, name) for name in STATISTICS}, state

    def load(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Take over both."""
        super().load({name: tensor for name, tensor in tensors.items() if not name.startswith("lda.")}, state)
        for name in STATISTICS:
            getattr(self, name).copy_(tensors[f"lda.{name}"])


def _head(model: nn.Module, classes: int) -> nn.Linear:
    """The last layer of `model`, from d features to logits.

    Raises:
        SettingsError: it is another kind of layer.
    """
    *_, last = (module for module in model.modules() if not list(module.children()))
    if not isinstance(last, nn.Linear) or last.bias is None or last.out_features != classes:
        raise SettingsError(
            f"online.strategy = streaming-lda: needs a network that ends in a linear layer with a bias and {classes} "
            "outputs, as net and net-bn do"
        )
    return last
