"""The default strategy: an ensemble whose members' weights follow their recent performance (Fixed Share).

The members are:

- `base`: the version that the lineage started from; it never changes, so nothing is forgotten
- `colour`: the base behind a colour transform (`online.colour`)
- `statistics`: the base with batch normalisation by the stream's own statistics (`models.statistics`)
- `alike`: a model that is trained on recent images and on reference images transformed to look like the stream
  (`online.appearance`)
- `kept 1`, `kept 2`, ...: archived members that did best under an earlier concept; they take over at once if it recurs

Fixed Share (`online.experts`) bounds the ensemble's loss relative to the best sequence of members in hindsight. If
labels are scarce, the weights come from accuracies estimated without labels (`online.estimate`); and if the stream
looks as before the drift, the base gets all the weight.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from typing_extensions import override

from cifarctl.data import Images
from cifarctl.models import statistics
from cifarctl.models.architectures.mixture import Mixture, kinds
from cifarctl.models.predictor import autocast
from cifarctl.models.preprocess import normalise
from cifarctl.online.appearance import Appearance, AppearanceTransfer, Transform, half_and_half
from cifarctl.online.colour import Colour, fit_colour, match_moments
from cifarctl.online.concept import ARRIVED
from cifarctl.online.estimate import likely_right, threshold
from cifarctl.online.experts import FixedShare
from cifarctl.online.fit import Lesson, fit, join, sample
from cifarctl.online.strategies import Snapshot, Start, Strategy

# Hand-chosen, without a recorded ablation of single values; each line says what the value trades off.
# benchmarks/FINDINGS.md, "Learner", has measurements of whole parts.
ETA = 0.2  # learning rate of Fixed Share; below 1 averages independent errors longer, but tracks more slowly
ALPHA = 0.01  # share rate of Fixed Share; higher: a faster change of the best member, more weight on the others
MAX_ARCHIVED = 4  # archived members; more: more recurring concepts remembered, slower inference
MIN_WEIGHT_SHIFT = 0.2  # total weight that must move for a new snapshot; lower: more versions
MIN_WEIGHT = 0.01  # weight below which a snapshot omits a member; higher: faster inference, less averaging
STREAM_SHARE = 0.25  # fraction of recent images in a batch, the rest are reference images; higher: overfits sooner
RECENT_IMAGES = 500  # newest labelled images to train on; more: less overfitting, slower to follow
COLOUR_IMAGES = 250  # newest labelled images for the colour transform; twelve parameters need few
REFERENCE_IMAGES = 1000  # for statistics of the reference's appearance; more: less noise, slower
MIN_COLOUR_GAIN = 0.1  # nats per label that a colour transform must gain to be used for training; rejects noise
DECAY = 0.9965  # of class frequencies and renamings per label: a half-life of 200 labels
PRIOR_WEIGHT = 10.0  # virtual labels per class in the class frequencies; more: less noise, more bias
RENAMING_WEIGHT = 5.0  # virtual labels per class that keep their own name; more: relabelling is followed later
RENAMING_SMOOTHING = 1.0  # virtual labels per class, spread over all names; keeps probabilities above 0
MIN_IMAGES = 50  # minimum images for statistics and for estimates without labels; fewer are too noisy
MIN_STANDARD_ERRORS = 2.0  # advantage required of a colour transform without labels; about 95 % confidence
KINDS = ("plain", "prior", "renamed")


@dataclass
class _Member:
    model: nn.Module
    colour: Colour
    follows: bool = False  # whether it normalises by the statistics of the stream
    credit: float = 0.0  # sum of its weights over the images since the last drift
    last: int = 0  # number of the last proposal in which it had the largest weight


def begin(start: Start) -> Strategy:
    """An ensemble around the version that the lineage starts from; if that is an ensemble, its members are kept."""
    return _Pool(start)


class _Pool(Strategy):
    unlabelled = True

    def __init__(self, start: Start) -> None:
        self._start = start
        self._kinds = KINDS if start.follow_relabelling else KINDS[:2]
        model, arguments = start.snapshot.model, start.snapshot.arguments
        if isinstance(model, Mixture):
            self._architecture, self._arguments = arguments["member"], arguments["arguments"]
            self._members = {
                "base" if not index else f"kept {index}": _Member(
                    member, Colour(model.matrix[index], model.shift[index]), bool(model.follows[index])
                )
                for index, member in enumerate(model.members)
            }
        else:
            self._architecture, self._arguments = start.snapshot.architecture, arguments
            self._members = {"base": _Member(model, Colour.none())}
        self._published: dict[str, float] = {}  # the members' weights in the last snapshot
        self._weights = FixedShare(self._experts(), ETA, ALPHA)
        self._labels = torch.zeros(start.classes)
        self._renamed = torch.zeros((start.classes, start.classes))
        self._proposals, self._archived = 0, len(self._members) - 1
        self._colours_searched = False  # in a full window of the current concept

    @override
    def observe(self, images: Images) -> None:
        names = list(self._members)
        with torch.inference_mode():
            probabilities = self._mixture(names).plain(self._normalised(images.pixels))
        for place, label in enumerate(images.labels.tolist()):
            plain = probabilities[:, place]  # (members, classes)
            renaming = self._renaming()
            given = kinds(plain, self._prior(), renaming)[:, :, label].tolist()
            self._weights.update(
                {
                    f"{kind} {name}": probability
                    for kind, row in zip(self._kinds, given, strict=False)
                    for name, probability in zip(names, row, strict=True)
                }
            )
            weights = self._weights.vector([f"plain {name}" for name in names])
            answer = (weights[:, None] * plain).sum(dim=0) / weights.sum()
            self._labels *= DECAY
            self._labels[label] += 1
            self._renamed *= DECAY
            self._renamed[:, label] += answer * renaming[:, label] / (answer @ renaming[:, label])
            for name, member in self._members.items():
                member.credit += self._weight(name)

    @override
    def propose(self, lesson: Lesson) -> Snapshot:
        self._proposals += 1
        if lesson.drifted:
            self._archive()
            self._colours_searched = False
            self._renamed.zero_()  # a drift may change the names too
        base = self._members["base"].model
        reference = self._normalised(sample(lesson.reference, REFERENCE_IMAGES, lesson.generator).pixels)
        window = self._normalised(lesson.arrived)
        if lesson.scarce and self._looks_as_before(lesson, window):
            for name in {"statistics", "alike"} & self._members.keys():
                self._members[name].model = base  # they were adapted to the previous concept
            self._set_weights({"base": 1.0}, window)
            return self._snapshot()
        colour = self._fit_colour(lesson, reference, window)
        transform: Transform | None = None
        if len(window):
            of_reference, of_window = Appearance.of(reference), Appearance.of(window)
            transform = AppearanceTransfer(of_reference, of_window, colour)
            if colour is not None and lesson.scarce:  # the colour transform is only estimated
                transform = half_and_half(transform, AppearanceTransfer(of_reference, of_window))
        trained = self._train_alike(lesson, transform)
        if len(window) >= MIN_IMAGES and (adapted := statistics.adapted(base, window)) is not None:
            self._put("statistics", adapted, Colour.none(), follows=True)
            trained = statistics.adapted(trained, window) or trained
        self._put("alike", trained, Colour.none(), follows=True)
        if lesson.scarce and transform is not None and _can_estimate(lesson):
            self._set_weights(self._estimated_weights(lesson, transform, window), window)
        return self._snapshot()

    @override
    def revise(self) -> Snapshot | None:
        """A snapshot with the current weights, if they have moved enough since the last snapshot."""
        now = {name: self._weight(name) for name in self._members}
        shifted = sum(abs(share - self._published.get(name, 0.0)) for name, share in now.items()) / 2
        return self._snapshot() if self._published and shifted > MIN_WEIGHT_SHIFT else None

    @override
    def step_back(self) -> None:
        """Keep the members, which may suit another concept; Fixed Share continues to adapt their weights."""
        self._published = {}

    def _snapshot(self) -> Snapshot:
        self._published = {name: self._weight(name) for name in self._members}
        self._members[max(self._published, key=self._published.__getitem__)].last = self._proposals
        included = [name for name, weight in self._published.items() if name == "base" or weight >= MIN_WEIGHT]
        arguments = {
            "member": self._architecture,
            "arguments": self._arguments,
            "members": len(included),
            "classes": self._start.classes,
        }
        return Snapshot("mixture", arguments, self._mixture(included))

    @override
    def dump(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors = {"labels": self._labels, "renamed": self._renamed}
        for name, member in self._members.items():
            tensors |= {f"{name}/{key}": tensor for key, tensor in member.model.state_dict().items()}
            tensors |= {f"{name}//matrix": member.colour.matrix, f"{name}//shift": member.colour.shift}
        return tensors, {
            "members": {name: [member.follows, member.credit, member.last] for name, member in self._members.items()},
            "weights": self._weights.weights,
            "shown": self._published,
            "proposals": self._proposals,
            "taken": self._archived,
            "guessed": self._colours_searched,
        }

    @override
    def load(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        base = self._members["base"].model
        self._labels, self._renamed = tensors["labels"].clone(), tensors["renamed"].clone()
        self._members = {}
        for name, (follows, credit, last) in state["members"].items():
            model = copy.deepcopy(base)
            model.load_state_dict({key: tensors[f"{name}/{key}"] for key in model.state_dict()})
            colour = Colour(tensors[f"{name}//matrix"].clone(), tensors[f"{name}//shift"].clone())
            self._members[name] = _Member(model, colour, follows, credit, last)
        self._weights.weights, self._published = dict(state["weights"]), dict(state["shown"])
        self._proposals, self._archived, self._colours_searched = state["proposals"], state["taken"], state["guessed"]

    def _looks_as_before(self, lesson: Lesson, window: torch.Tensor) -> bool:
        """Whether the `window` looks as before the drift, and the base's estimated accuracy on it is as usual."""
        if lesson.moved or not _can_estimate(lesson):
            return False
        base, labels = self._members["base"].model, lesson.apart.labels
        with torch.inference_mode(), autocast(window.device, lesson.precision):
            apart, here = (
                base(images).float().softmax(dim=1) for images in (self._normalised(lesson.apart.pixels), window)
            )
        usual = float((apart.argmax(dim=1) == labels).float().mean())
        estimated = _estimated_accuracy(here, threshold(apart, labels))
        return estimated > usual - MIN_STANDARD_ERRORS * _standard_error(len(window))

    def _fit_colour(self, lesson: Lesson, reference: torch.Tensor, window: torch.Tensor) -> Colour | None:
        """Fit the colour transform and update its member; returns None if the transform gains too little."""
        base = self._members["base"].model
        known = self._members["colour"].colour if "colour" in self._members else None
        if lesson.scarce:
            best = self._estimate_colour(lesson, reference, window, known)
            if best is not None:
                self._put("colour", base, best)
            return best
        recent = Images(lesson.recent.pixels[-COLOUR_IMAGES:], lesson.recent.labels[-COLOUR_IMAGES:])
        if not len(recent):
            return None
        images = self._normalised(recent.pixels)
        colour, gain = fit_colour(
            base, images, recent.labels, reference, known, lesson.generator, lesson.on_step, lesson.precision
        )
        self._put("colour", base, colour)
        return colour if gain > MIN_COLOUR_GAIN else None

    def _estimate_colour(
        self, lesson: Lesson, reference: torch.Tensor, window: torch.Tensor, known: Colour | None
    ) -> Colour | None:
        """The colour transform with the highest accuracy of the base, estimated without labels of the stream.

        A later candidate must be better than the earlier ones by `MIN_STANDARD_ERRORS`; the order is identity, the
        known transform, then principal axes, with unchanged signs first. None means the identity. New candidates are
        not searched for again after a full window of a concept.
        """
        if not _can_estimate(lesson):
            return None
        candidates = [] if known is None else [known]
        if not self._colours_searched:
            candidates += match_moments(window, reference)
            self._colours_searched = len(window) >= ARRIVED
        if not candidates:
            return None
        base, apart = self._members["base"].model, self._normalised(lesson.apart.pixels)
        of_reference, of_window = Appearance.of(reference), Appearance.of(window)
        best, highest = Colour.none(), 0.0
        for colour in (best, *candidates):
            transformed = AppearanceTransfer(of_reference, of_window, colour)(apart, lesson.generator)
            with torch.inference_mode(), autocast(window.device, lesson.precision):
                labelled, here = (base(colour(images)).float().softmax(dim=1) for images in (transformed, window))
            accuracy = _estimated_accuracy(here, threshold(labelled, lesson.apart.labels))
            if accuracy > highest + MIN_STANDARD_ERRORS * _standard_error(len(window)):
                best, highest = colour, accuracy
        return None if torch.equal(best.matrix, torch.eye(3)) else best

    def _train_alike(self, lesson: Lesson, transform: Transform | None) -> nn.Module:
        """Train the member `alike` on recent images and on reference images under `transform`."""
        recent = Images(lesson.recent.pixels[-RECENT_IMAGES:], lesson.recent.labels[-RECENT_IMAGES:])
        real = int(lesson.batch_size * STREAM_SHARE) if len(recent) else 0

        def draw() -> tuple[torch.Tensor, torch.Tensor]:
            old = sample(lesson.reference, lesson.batch_size - real, lesson.generator)
            new = sample(recent, real, lesson.generator)
            images = lesson.present(old)
            if transform is not None:
                images = transform(images, lesson.generator)
            if len(new):
                images = torch.cat([images, lesson.present(new)])
            return images.contiguous(memory_format=torch.channels_last), join(old, new).labels

        before = "base" if lesson.scarce and lesson.drifted else "alike"
        return fit(self._members.get(before, self._members["base"]).model, lesson, draw)

    def _estimated_weights(self, lesson: Lesson, transform: Transform, window: torch.Tensor) -> dict[str, float]:
        """Weights by the members' estimated accuracies on the `window`: a softmax in units of the standard error."""
        names = list(self._members)
        pool = self._mixture(names)
        transformed = transform(self._normalised(lesson.apart.pixels), lesson.generator)
        labels = lesson.apart.labels
        with torch.inference_mode(), autocast(window.device, lesson.precision):
            apart, here = pool.adapted(transformed).plain(transformed), pool.plain(window)
        accuracies = torch.tensor(
            [_estimated_accuracy(there, threshold(known, labels)) for known, there in zip(apart, here, strict=True)]
        )
        return dict(zip(names, (accuracies / _standard_error(len(window))).softmax(dim=0).tolist(), strict=True))

    def _set_weights(self, weights: dict[str, float], window: torch.Tensor) -> None:
        """Replace the members' weights, and credit them for the images of the `window`."""
        self._weights.restart({f"plain {name}": weight for name, weight in weights.items()})
        for name, member in self._members.items():
            member.credit += self._weight(name) * len(window)

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        return normalise(pixels, self._start.mean, self._start.std)

    def _archive(self) -> None:
        """Archive the member with the most credit under the previous concept, unless it is the base or archived."""
        best = max(self._members, key=lambda name: self._members[name].credit)
        if best in ("colour", "statistics", "alike"):
            while len(kept := [name for name in self._members if name.startswith("kept")]) >= MAX_ARCHIVED:
                self._drop(min(kept, key=lambda name: self._members[name].last))
            self._archived += 1
            member = self._members[best]
            self._put(f"kept {self._archived}", member.model, member.colour)
        for member in self._members.values():
            member.credit = 0.0

    def _put(self, name: str, model: nn.Module, colour: Colour, *, follows: bool = False) -> None:
        if name in self._members:
            self._members[name].model, self._members[name].colour = model, colour
            return
        self._members[name] = _Member(model, colour, follows, last=self._proposals)
        for kind in self._kinds:
            self._weights.add(f"{kind} {name}")

    def _drop(self, name: str) -> None:
        del self._members[name]
        for kind in self._kinds:
            self._weights.remove(f"{kind} {name}")

    def _experts(self) -> list[str]:
        return [f"{kind} {name}" for kind in self._kinds for name in self._members]

    def _weight(self, name: str) -> float:
        return sum(self._weights.weights[f"{kind} {name}"] for kind in self._kinds)

    def _mixture(self, names: list[str]) -> Mixture:
        """The members `names` as one network; it shares their models, which are never modified."""
        pool = Mixture([self._members[name].model for name in names], self._start.classes)
        pool.weights.zero_()
        for row, kind in enumerate(self._kinds):
            pool.weights[row] = self._weights.vector([f"{kind} {name}" for name in names])
        pool.weights /= pool.weights.sum()
        pool.follows.copy_(torch.tensor([self._members[name].follows for name in names]))
        for index, name in enumerate(names):
            pool.matrix[index], pool.shift[index] = self._members[name].colour.matrix, self._members[name].colour.shift
        pool.prior.copy_(self._prior())
        pool.renaming.copy_(self._renaming())
        return pool.eval()

    def _prior(self) -> torch.Tensor:
        """Class frequencies (classes,) relative to equal ones."""
        counted = self._labels + PRIOR_WEIGHT
        return counted * len(counted) / counted.sum()

    def _renaming(self) -> torch.Tensor:
        """Probability of each label (columns) given the class (rows), (classes, classes).

        This is an observer's confusion matrix (Dawid and Skene 1979), estimated by online expectation maximisation
        (Cappé and Moulines 2009).
        """
        classes = len(self._labels)
        counted = self._renamed + RENAMING_WEIGHT * torch.eye(classes) + RENAMING_SMOOTHING / classes
        return counted / counted.sum(dim=1, keepdim=True)


def _can_estimate(lesson: Lesson) -> bool:
    """Whether there are enough images to estimate accuracy without labels."""
    return len(lesson.arrived) >= MIN_IMAGES and len(lesson.apart) > 0


def _standard_error(images: int) -> float:
    """Upper bound of the standard error of a fraction of `images` images."""
    return 0.5 / math.sqrt(images)


def _estimated_accuracy(probabilities: torch.Tensor, least: float) -> float:
    """The fraction of images whose prediction counts as right; see `online.estimate`."""
    return float(likely_right(probabilities, least).float().mean())
