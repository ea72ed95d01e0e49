"""Drift scenarios: how the images of a stream, and their labels, change over its course.

A scenario is text: ``operation[:strength]@start-end``, comma-separated, positions counted in images, ranges
half-open; ``~`` before the start ramps the strength from none at the first image to full at the last.
Outside every range the stream is clean; where ranges overlap, their operations apply in the order written.

    noise:0.12@1500-3500,swap@3500-5500,contrast:0.3@~6500-8500

Labels change by ``classes:0+1+2`` (only these), ``prior:SEED`` (uneven class frequencies), ``relabel:3+5`` (exchanged),
``wrong:0.2`` (share given wrong), ``late:500`` (images later) and ``labelled:0.1`` (share that gets a label at all).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from cifarctl.data.operations import CLASSED, LABEL_OPERATIONS, OPERATIONS, Strength
from cifarctl.errors import SettingsError

FOREVER = 1_000_000_000

COVARIATE = "noise:0.12@1500-3500,swap@3500-5500,invert@6500-8500"
ROUND = 2500  # images of one round of `recurring`

PRESETS: dict[str, str] = {
    "none": "",
    "covariate": COVARIATE,
    "recurring": ",".join(
        f"{name}@{start}-{start + 625}"
        for first in range(0, 4 * ROUND, ROUND)
        for name, start in (("noise:0.12", first), ("swap", first + 625), ("invert", first + 1250))
    ),
    "gradual": f"contrast:0.2@~0-6000,noise:0.15@~0-6000,contrast:0.2@6000-{FOREVER},noise:0.15@6000-{FOREVER}",
    "prior": "prior:7@1500-2500,classes:0+1+2+3+4+5+6+7@4000-7000",
    "relabel": f"relabel:3+5@5000-{FOREVER}",
    "noisy-labels": f"wrong:0.2@0-{FOREVER}",
    "late": f"{COVARIATE},late:500@0-{FOREVER}",
    "sparse": f"{COVARIATE},labelled:0.1@0-{FOREVER}",
    "unlabelled": f"{COVARIATE},labelled:0@0-{FOREVER}",
    "corruptions": ",".join(
        f"{name}@{number * 1250}-{(number + 1) * 1250}"
        for number, name in enumerate(
            ("noise:0.2", "blur:1.5", "brightness:2", "contrast:0.2", "jpeg:8", "pixelate:12", "saturation:0")
        )
    )
    + f",occlude:0.4@8750-10000,labelled:0@0-{FOREVER}",
}

#: Uneven class frequencies are drawn from a symmetric Dirichlet distribution of this concentration.
CONCENTRATION = 1.0

_PIECE = re.compile(r"(?P<name>[a-z]+)(?::(?P<strength>[^@]*))?@(?P<ramp>~?)(?P<start>\d{1,18})-(?P<end>\d{1,18})")
_CLASSES = re.compile(r"\d{1,4}(\+\d{1,4})*")


@dataclass(frozen=True)
class Range:
    """One piece of a scenario: an operation over the half-open range of positions `start`..`end`."""

    name: str
    strength: float
    classes: tuple[int, ...]
    start: int
    end: int
    ramp: bool
    label: str

    def strength_at(self, position: int) -> float:
        """The strength at a position inside the range."""
        if not self.ramp:
            return self.strength
        none = _kind(self.name).none
        return none + (self.strength - none) * (position - self.start) / max(1, self.end - 1 - self.start)

    def within(self, start: int, size: int) -> range:
        """Those of the positions `start`..`start + size - 1` that lie in the range."""
        return range(max(start, self.start), min(start + size, self.end))


@dataclass(frozen=True)
class Scenario:
    """A parsed scenario; `text` is what it was parsed from, with presets spelt out, `name` the preset's or that text.

    Example:
        >>> import torch
        >>> from cifarctl import Scenario
        >>> scenario = Scenario.parse("noise:0.12@100-200,swap@200-300")
        >>> scenario.active(150), scenario.active(250), scenario.active(300)
        ('noise:0.12', 'swap', 'clean')
        >>> scenario.boundaries()
        (100, 200, 300)
        >>> red = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
        >>> red[:, 0] = 255
        >>> scenario.apply(red, start=250, seed=0)[0, :, 0, 0]  # swapped, red becomes green
        tensor([  0, 255,   0], dtype=torch.uint8)
    """

    name: str
    text: str
    ranges: tuple[Range, ...]

    @classmethod
    def parse(cls, text: str) -> Scenario:
        """Parse a preset's name or the grammar of this module; empty text is the clean stream.

        Raises:
            SettingsError: a piece is not understood; the message quotes it and says what is allowed.
        """
        name = text.strip() or "none"
        text = PRESETS.get(name, name)
        pieces = text.split(",") if text else []
        return cls(name, text, tuple(_parse(piece.strip()) for piece in pieces))

    def apply(self, pixels: torch.Tensor, start: int, seed: int) -> torch.Tensor:
        """The images at stream positions `start`..`start + B - 1` as the scenario shows them.

        Randomness is drawn for each position by itself, so the result does not depend on how the stream is
        cut into batches.

        Args:
            pixels: (B, 3, 32, 32) uint8, clean; not changed.
            start: position of the first image in the stream.
            seed: seed of the random operations.

        Returns:
            (B, 3, 32, 32) uint8; `pixels` itself where nothing is active.
        """
        drifted = pixels
        for number, piece in enumerate(self.ranges):
            within = piece.within(start, len(pixels))
            if piece.name not in OPERATIONS or not within:
                continue
            if drifted is pixels:
                drifted = pixels.clone()
            operation = OPERATIONS[piece.name]
            root = _root(seed, number)
            # Along a ramp every image has a strength of its own, and torchvision takes one for a batch.
            step = 1 if piece.ramp else len(within)
            for position in within[::step]:
                where = slice(position - start, position - start + step)
                generators = _generators(root, range(position, position + step)) if operation.random else []
                strength = piece.strength_at(position)
                drifted[where] = operation.apply(drifted[where], strength, generators)
        return drifted

    def concept(self, labels: torch.Tensor, start: int) -> torch.Tensor:
        """What is right at stream positions `start`..`start + B - 1`, given the images' labels (B,) int64."""
        right = labels
        for piece in self._pieces("relabel", start, len(labels)):
            within = piece.within(start, len(labels))
            where = slice(within.start - start, within.stop - start)
            right = right.clone() if right is labels else right
            before = right[where].clone()
            for old, new in zip(piece.classes, piece.classes[1:] + piece.classes[:1], strict=True):
                right[where][before == old] = new
        return right

    def given(self, concept: torch.Tensor, start: int, seed: int, classes: int) -> torch.Tensor:
        """The labels that are given, (B,) int64, -1 for none, where `concept` would be right; cut as `apply`."""
        labels = concept
        for number, piece in enumerate(self.ranges):
            within = piece.within(start, len(concept))
            if piece.name not in ("wrong", "labelled") or not within:
                continue
            chance = torch.stack([torch.rand(2, generator=g) for g in _generators(_root(seed, number), within)])
            share = torch.tensor([piece.strength_at(position) for position in within])
            where = slice(within.start - start, within.stop - start)
            labels = labels.clone() if labels is concept else labels
            now = labels[where]
            if piece.name == "wrong":
                other = (now + 1 + (chance[:, 1] * (classes - 1)).long()) % classes
                labels[where] = torch.where((chance[:, 0] < share) & (now >= 0), other, now)
            else:
                labels[where] = torch.where(chance[:, 0] < share, now, -1)
        return labels

    def late(self, start: int, size: int) -> torch.Tensor:
        """How many images after its own each label comes, (size,) int64."""
        delays = torch.zeros(size, dtype=torch.int64)
        for piece in self._pieces("late", start, size):
            for position in piece.within(start, size):
                delays[position - start] = round(piece.strength_at(position))
        return delays

    def weights(self, position: int, classes: int) -> torch.Tensor | None:
        """The frequencies (classes,) with which classes are to come at a position; None: as the images have them."""
        wanted = None
        for piece in (*self._pieces("prior", position, 1), *self._pieces("classes", position, 1)):
            wanted = torch.ones(classes, dtype=torch.float64) if wanted is None else wanted
            if piece.name == "prior":
                wanted = wanted * _uneven(int(piece.strength), classes)
            else:
                chosen = torch.zeros(classes, dtype=torch.float64)
                chosen[list(piece.classes)] = 1
                wanted = wanted * chosen
        return wanted

    @property
    def latest(self) -> int:
        """By how many images a label comes late at most."""
        return max((round(piece.strength) for piece in self.ranges if piece.name == "late"), default=0)

    def uses(self, *names: str) -> bool:
        """Whether any of these operations occurs."""
        return any(piece.name in names for piece in self.ranges)

    def check(self, held: torch.Tensor) -> None:
        """See that the scenario fits images of the classes of which `held` (classes,) bool says that there are any.

        Raises:
            SettingsError: it names a class that there is not, or leaves none to choose from somewhere.
        """
        classes = len(held)
        for piece in self.ranges:
            if piece.classes and max(piece.classes) >= classes:
                raise SettingsError(
                    f"drift {piece.label!r}: there is no class {max(piece.classes)}; there are 0 to {classes - 1}"
                )
        for position in (0, *self.boundaries()):
            weights = self.weights(position, classes)
            if weights is not None and not (weights * held).any():
                raise SettingsError(
                    f"drift: {self.active(position)} leaves no class to choose from at image {position}, since those "
                    "ranges exclude each other or have no images"
                )

    def _pieces(self, name: str, start: int, size: int) -> list[Range]:
        return [piece for piece in self.ranges if piece.name == name and piece.within(start, size)]

    def active(self, position: int) -> str:
        """What is active at a position, for display: ``swap``, ``noise:0.12 + invert``, or ``clean``."""
        active = [piece.label for piece in self.ranges if piece.start <= position < piece.end]
        return " + ".join(active) or "clean"

    def boundaries(self) -> tuple[int, ...]:
        """Positions, ascending, at which a range begins or ends; the stream's beginning is none of them."""
        return tuple(sorted({edge for piece in self.ranges for edge in (piece.start, piece.end)} - {0}))


def _kind(name: str) -> Strength:
    """What may be written after a name."""
    return OPERATIONS.get(name) or LABEL_OPERATIONS.get(name) or Strength()


def _parse(piece: str) -> Range:
    name = re.split("[:@]", piece, maxsplit=1)[0]
    names = (*OPERATIONS, *CLASSED, *LABEL_OPERATIONS)
    if name not in names and (name != piece or "@" in piece):
        raise SettingsError(f"drift {piece!r}: no operation {name!r}; there are {', '.join(names)}")
    match = _PIECE.fullmatch(piece)
    if match is None:
        raise SettingsError(
            f"drift {piece!r}: expected operation[:strength]@start-end, for example noise:0.12@1500-3500, "
            f"with the operations {', '.join(names)}, or a preset: {', '.join(PRESETS)}"
        )
    start, end = int(match["start"]), int(match["end"])
    if start >= end:
        raise SettingsError(f"drift {piece!r}: the range {start}-{end} is empty; the end must be beyond the start")
    if match["ramp"] and name in (*CLASSED, "prior"):
        raise SettingsError(f"drift {piece!r}: {name} cannot come by degrees; write it without ~")
    return Range(
        name=name,
        strength=1.0 if name in CLASSED else _strength(piece, name, match["strength"]),
        classes=_classes(piece, name, match["strength"]) if name in CLASSED else (),
        start=start,
        end=end,
        ramp=bool(match["ramp"]),
        label=("~" if match["ramp"] else "") + name + (f":{match['strength']}" if match["strength"] else ""),
    )


def _classes(piece: str, name: str, text: str | None) -> tuple[int, ...]:
    least = 2 if name == "relabel" else 1
    chosen = tuple(map(int, text.split("+"))) if text and _CLASSES.fullmatch(text) else ()
    if len(chosen) < least or len(set(chosen)) < len(chosen):
        example = "relabel:3+5" if name == "relabel" else "classes:0+1+2"
        raise SettingsError(f"drift {piece!r}: {name} needs different classes, by number: {example}@start-end")
    return chosen


def _strength(piece: str, name: str, text: str | None) -> float:
    kind = _kind(name)
    if not kind.unit:
        if text is not None:
            raise SettingsError(f"drift {piece!r}: {name} takes no strength; write {name}@start-end")
        return 1.0
    allowed = f"{kind.unit}, {kind.low:g} to {kind.high:g}" + (", whole" if kind.whole else "")
    if not text:
        raise SettingsError(f"drift {piece!r}: {name} needs a strength ({allowed}); write {name}:strength@start-end")
    try:
        strength = float(text)
    except ValueError:
        strength = float("nan")
    # Written so that not-a-number fails too.
    if not kind.low <= strength <= kind.high or (kind.whole and strength % 1):
        raise SettingsError(f"drift {piece!r}: {name} cannot be {text} ({allowed})")
    return strength


@lru_cache(maxsize=64)
def _uneven(seed: int, classes: int) -> torch.Tensor:
    """Class frequencies (classes,) drawn from a symmetric Dirichlet distribution."""
    drawn = np.random.default_rng(seed).dirichlet(np.full(classes, CONCENTRATION))
    return torch.from_numpy(drawn)


def _root(seed: int, number: int) -> int:
    """Where the seeds of one range's positions begin: two noises on one image must not be the same noise."""
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def _generators(root: int, positions: range) -> list[torch.Generator]:
    # torch's Mersenne Twister takes 32 bits of its seed, so the positions are counted within those.
    return [torch.Generator().manual_seed((root + position) & 0xFFFFFFFF) for position in positions]
