"""A pool of models that answer together, weighed by their recent accuracy.

In it are the version that the lineage began with, which is never changed, so that nothing is forgotten; the same behind
a change of colours (`online.colour`); the same under the stream's own statistics, where it normalises by any
(`models.statistics`); a model that goes on learning from recent images beside reference images that look like the
stream (`online.lookalike`); and those of these that did best under concepts that have passed, which take over again at
once where one returns. Weights follow the best by Fixed Share (`online.experts`), so the pool as a whole loses little
to whichever sequence of its members would have been best in hindsight. As long as there are next to no labels weights
are by how right each is likely to be (`online.estimate`), and all the first version's where the stream looks as ever.
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
from cifarctl.online.colour import Colour, fit_colour, match_moments
from cifarctl.online.concept import ARRIVED
from cifarctl.online.estimate import likely_right, threshold
from cifarctl.online.experts import FixedShare
from cifarctl.online.fit import Lesson, fit, join, sample
from cifarctl.online.lookalike import Appearance, Look, Lookalike, halves
from cifarctl.online.strategies import Snapshot, Start, Strategy

ETA = 0.2  # of Fixed Share: well below 1, so that what errs independently goes on being averaged
ALPHA = 0.01
KEPT = 4  # members of concepts that have passed
SHIFTED = 0.2  # of all weight, from some members to others, after which there is a new snapshot
UNHEARD = 0.01  # weight below which a snapshot leaves a member out
STREAM_SHARE = 0.25  # of a batch: recent images, beside those that look like them
RECENT = 500  # labelled images that count as recent
COLOUR_IMAGES = 250
REFERENCE_IMAGES = 1000  # for statistics
HELPS = 0.1  # nats a label that a change of colours must help before it is believed
MEMORY = 0.9965  # of class frequencies and renamings, a label: half of it is left after 200
PRIOR_WEIGHT = 10.0  # labels of each class that are imagined beforehand
RENAMING_WEIGHT = 5.0  # labels of each class that are imagined to go by its own name
RENAMING_DOUBT = 1.0  # and those that go by any name
FEWEST = 50  # images below which they have no statistics, and no share of them is right
SURE = 2.0  # errors of an estimate by which a change of colours must do better to be believed without labels
KINDS = ("plain", "prior", "renamed")


@dataclass
class _Member:
    model: nn.Module
    colour: Colour
    follows: bool = False  # whether it normalises by the statistics of the stream
    heard: float = 0.0  # its weights since the last drift, summed
    last: int = 0  # the proposal at which it was last the one heard most


def begin(start: Start) -> Strategy:
    """A pool around the version that the lineage begins with; of a version that is a pool, around all its members."""
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
        self._shown: dict[str, float] = {}  # how loud each member is in the last snapshot
        self._weights = FixedShare(self._experts(), ETA, ALPHA)
        self._labels = torch.zeros(start.classes)
        self._renamed = torch.zeros((start.classes, start.classes))
        self._proposals, self._taken = 0, len(self._members) - 1
        self._guessed = False  # whether colours were looked for in a whole window of the present concept

    @override
    def observe(self, images: Images) -> None:
        names = list(self._members)
        with torch.inference_mode():
            said = self._mixture(names).plain(self._normalised(images.pixels))
        for place, label in enumerate(images.labels.tolist()):
            plain = said[:, place]  # (members, classes)
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
            self._labels *= MEMORY
            self._labels[label] += 1
            self._renamed *= MEMORY
            self._renamed[:, label] += answer * renaming[:, label] / (answer @ renaming[:, label])
            for name, member in self._members.items():
                member.heard += self._heard(name)

    @override
    def propose(self, lesson: Lesson) -> Snapshot:
        self._proposals += 1
        if lesson.drifted:
            self._keep()
            self._guessed = False
            self._renamed.zero_()  # names are as likely to have changed as anything else
        base = self._members["base"].model
        reference = self._normalised(sample(lesson.reference, REFERENCE_IMAGES, lesson.generator).pixels)
        window = self._normalised(lesson.arrived)
        if lesson.scarce and self._as_ever(lesson, window):
            for name in {"statistics", "alike"} & self._members.keys():
                self._members[name].model = base  # what they have learned is of another concept
            self._weigh({"base": 1.0}, window)
            return self._snapshot()
        colour = self._learn_colour(lesson, reference, window)
        look: Look | None = None
        if len(window):
            usual, present = Appearance.of(reference), Appearance.of(window)
            look = Lookalike(usual, present, colour)
            if colour is not None and lesson.scarce:  # the colour is but a guess
                look = halves(look, Lookalike(usual, present))
        learned = self._learn_alike(lesson, look)
        if len(window) >= FEWEST and (of_window := statistics.adapted(base, window)) is not None:
            self._put("statistics", of_window, Colour.none(), follows=True)
            learned = statistics.adapted(learned, window) or learned
        self._put("alike", learned, Colour.none(), follows=True)
        if lesson.scarce and look is not None and _tells(lesson):
            self._weigh(self._likely_shares(lesson, look, window), window)
        return self._snapshot()

    @override
    def revise(self) -> Snapshot | None:
        """The pool as it is, once its members are heard otherwise than in the last snapshot."""
        now = {name: self._heard(name) for name in self._members}
        shifted = sum(abs(share - self._shown.get(name, 0.0)) for name, share in now.items()) / 2
        return self._snapshot() if self._shown and shifted > SHIFTED else None

    @override
    def step_back(self) -> None:
        """The members stay, as another concept may be theirs, and their weights follow what comes."""
        self._shown = {}

    def _snapshot(self) -> Snapshot:
        self._shown = {name: self._heard(name) for name in self._members}
        self._members[max(self._shown, key=self._shown.__getitem__)].last = self._proposals
        heard = [name for name, share in self._shown.items() if name == "base" or share >= UNHEARD]
        arguments = {
            "member": self._architecture,
            "arguments": self._arguments,
            "members": len(heard),
            "classes": self._start.classes,
        }
        return Snapshot("mixture", arguments, self._mixture(heard))

    @override
    def dump(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors = {"labels": self._labels, "renamed": self._renamed}
        for name, member in self._members.items():
            tensors |= {f"{name}/{key}": tensor for key, tensor in member.model.state_dict().items()}
            tensors |= {f"{name}//matrix": member.colour.matrix, f"{name}//shift": member.colour.shift}
        return tensors, {
            "members": {name: [member.follows, member.heard, member.last] for name, member in self._members.items()},
            "weights": self._weights.weights,
            "shown": self._shown,
            "proposals": self._proposals,
            "taken": self._taken,
            "guessed": self._guessed,
        }

    @override
    def load(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        base = self._members["base"].model
        self._labels, self._renamed = tensors["labels"].clone(), tensors["renamed"].clone()
        self._members = {}
        for name, (follows, heard, last) in state["members"].items():
            model = copy.deepcopy(base)
            model.load_state_dict({key: tensors[f"{name}/{key}"] for key in model.state_dict()})
            colour = Colour(tensors[f"{name}//matrix"].clone(), tensors[f"{name}//shift"].clone())
            self._members[name] = _Member(model, colour, follows, heard, last)
        self._weights.weights, self._shown = dict(state["weights"]), dict(state["shown"])
        self._proposals, self._taken, self._guessed = state["proposals"], state["taken"], state["guessed"]

    def _as_ever(self, lesson: Lesson, window: torch.Tensor) -> bool:
        """Whether the `window` looks as images used to and the base is about as sure of it: then it answers alone."""
        if lesson.moved or not _tells(lesson):
            return False
        base, labels = self._members["base"].model, lesson.apart.labels
        with torch.inference_mode(), autocast(window.device, lesson.precision):
            elsewhere, here = (
                base(images).float().softmax(dim=1) for images in (self._normalised(lesson.apart.pixels), window)
            )
        usual = float((elsewhere.argmax(dim=1) == labels).float().mean())
        return _likely(here, threshold(elsewhere, labels)) > usual - SURE * _error(len(window))

    def _learn_colour(self, lesson: Lesson, reference: torch.Tensor, window: torch.Tensor) -> Colour | None:
        """Learn the change of colours; None where it does not help."""
        base = self._members["base"].model
        known = self._members["colour"].colour if "colour" in self._members else None
        if lesson.scarce:
            best = self._guess_colour(lesson, reference, window, known)
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
        return colour if gain > HELPS else None

    def _guess_colour(
        self, lesson: Lesson, reference: torch.Tensor, window: torch.Tensor, known: Colour | None
    ) -> Colour | None:
        """The change of colours behind which the base is likely to be right most often, by no labels of the stream.

        None at all is believed before another, and principal axes as they are before some that are turned round. Once
        a whole window of a concept has been looked at there is nothing new to find.
        """
        if not _tells(lesson):
            return None
        guesses = [] if known is None else [known]
        if not self._guessed:
            guesses += match_moments(window, reference)
            self._guessed = len(window) >= ARRIVED
        if not guesses:
            return None
        base, apart = self._members["base"].model, self._normalised(lesson.apart.pixels)
        usual, present = Appearance.of(reference), Appearance.of(window)
        best, most = Colour.none(), 0.0
        for colour in (best, *guesses):
            shown = Lookalike(usual, present, colour)(apart, lesson.generator)
            with torch.inference_mode(), autocast(window.device, lesson.precision):
                elsewhere, here = (base(colour(images)).float().softmax(dim=1) for images in (shown, window))
            likely = _likely(here, threshold(elsewhere, lesson.apart.labels))
            if likely > most + SURE * _error(len(window)):
                best, most = colour, likely
        return None if torch.equal(best.matrix, torch.eye(3)) else best

    def _learn_alike(self, lesson: Lesson, look: Look | None) -> nn.Module:
        """The model that learns, after this lesson."""
        recent = Images(lesson.recent.pixels[-RECENT:], lesson.recent.labels[-RECENT:])
        real = int(lesson.batch_size * STREAM_SHARE) if len(recent) else 0

        def draw() -> tuple[torch.Tensor, torch.Tensor]:
            old = sample(lesson.reference, lesson.batch_size - real, lesson.generator)
            new = sample(recent, real, lesson.generator)
            shown = lesson.present(old)
            if look is not None:
                shown = look(shown, lesson.generator)
            images = torch.cat([shown, lesson.present(new)]) if len(new) else shown
            return images.contiguous(memory_format=torch.channels_last), join(old, new).labels

        before = "base" if lesson.scarce and lesson.drifted else "alike"
        return fit(self._members.get(before, self._members["base"]).model, lesson, draw)

    def _likely_shares(self, lesson: Lesson, look: Look, window: torch.Tensor) -> dict[str, float]:
        """Weights of the members by how right they are likely to be on the `window`, as far as that can be told."""
        names = list(self._members)
        pool = self._mixture(names)
        shown = look(self._normalised(lesson.apart.pixels), lesson.generator)
        with torch.inference_mode(), autocast(window.device, lesson.precision):
            elsewhere, here = pool.adapted(shown).plain(shown), pool.plain(window)
        likely = torch.tensor(
            [_likely(now, threshold(then, lesson.apart.labels)) for then, now in zip(elsewhere, here, strict=True)]
        )
        return dict(zip(names, (likely / _error(len(window))).softmax(dim=0).tolist(), strict=True))

    def _weigh(self, shares: dict[str, float], window: torch.Tensor) -> None:
        """Let the members weigh so much, without labels, after this `window`."""
        self._weights.restart({f"plain {name}": share for name, share in shares.items()})
        for name, member in self._members.items():
            member.heard += self._heard(name) * len(window)

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        return normalise(pixels, self._start.mean, self._start.std)

    def _keep(self) -> None:
        """Put away what did best under the concept that has just passed, unless it is put away already."""
        best = max(self._members, key=lambda name: self._members[name].heard)
        if best in ("colour", "statistics", "alike"):
            while len(kept := [name for name in self._members if name.startswith("kept")]) >= KEPT:
                self._drop(min(kept, key=lambda name: self._members[name].last))
            self._taken += 1
            member = self._members[best]
            self._put(f"kept {self._taken}", member.model, member.colour)
        for member in self._members.values():
            member.heard = 0.0

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

    def _heard(self, name: str) -> float:
        return sum(self._weights.weights[f"{kind} {name}"] for kind in self._kinds)

    def _mixture(self, names: list[str]) -> Mixture:
        """The pool, or a part of it, as a network; its models are shared, as nobody changes them."""
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
        """Class frequencies (classes,) as multiples of equal ones."""
        counted = self._labels + PRIOR_WEIGHT
        return counted * len(counted) / counted.sum()

    def _renaming(self) -> torch.Tensor:
        """Which label (columns) each class (rows) goes by, (classes, classes).

        Confusions of an observer (Dawid and Skene 1979), by online expectation-maximisation (Cappé and Moulines 2009).
        """
        classes = len(self._labels)
        counted = self._renamed + RENAMING_WEIGHT * torch.eye(classes) + RENAMING_DOUBT / classes
        return counted / counted.sum(dim=1, keepdim=True)


def _tells(lesson: Lesson) -> bool:
    """Whether it has images enough to estimate by how right a model is without labels."""
    return len(lesson.arrived) >= FEWEST and len(lesson.apart) > 0


def _error(images: int) -> float:
    """Standard error of a share of so many images."""
    return 0.5 / math.sqrt(images)


def _likely(probabilities: torch.Tensor, least: float) -> float:
    """The share of images that count as predicted right, see `online.estimate`."""
    return float(likely_right(probabilities, least).float().mean())
