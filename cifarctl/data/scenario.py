"""Drift scenarios: how the images and labels of a stream change over time.

A scenario is a comma-separated list of ``operation[:strength]@start-end``. Positions are counted in images, and ranges
are half-open. ``~`` before the start ramps the strength from no effect at the first image to full at the last. Outside
all ranges the stream is clean. Overlapping operations apply in the order written.

    noise:0.12@1500-3500,swap@3500-5500,contrast:0.3@~6500-8500

Operations on labels and class frequencies are ``classes:0+1+2`` (only these classes appear), ``prior:SEED`` (uneven
class frequencies), ``relabel:3+5`` (the labels are exchanged), ``wrong:0.2`` (fraction of wrong labels), ``late:500``
(delay of labels in images) and ``labelled:0.1`` (fraction of images with a label).
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

#: Concentration of the symmetric Dirichlet distribution of `prior`; 1 = all class frequencies equally likely.
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
        """The positions among `start`..`start + size - 1` that lie in the range."""
        return range(max(start, self.start), min(start + size, self.end))


@dataclass(frozen=True)
class Scenario:
    """A parsed scenario.

    `text` is its source with presets expanded, `name` the preset's name, or that text.

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
            SettingsError: a piece is invalid; the message quotes it and says what is allowed.
        """
        name = text.strip() or "none"
        text = PRESETS.get(name, name)
        pieces = text.split(",") if text else []
        return cls(name, text, tuple(_parse(piece.strip()) for piece in pieces))

    def apply(self, pixels: torch.Tensor, start: int, seed: int) -> torch.Tensor:
        """Apply the scenario to the images at stream positions `start`..`start + B - 1`.

        Each position has its own random seed, so the result does not depend on the batch boundaries.

        Args:
            pixels: (B, 3, 32, 32) uint8, clean; not changed.
            start: position of the first image in the stream.
            seed: seed of the random operations.

        Returns:
            (B, 3, 32, 32) uint8; `pixels` itself if no operation is active.
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
            # On a ramp each image has its own strength, and torchvision takes one per batch.
            step = 1 if piece.ramp else len(within)
            for position in within[::step]:
                where = slice(position - start, position - start + step)
                generators = _generators(root, range(position, position + step)) if operation.random else []
                strength = piece.strength_at(position)
                drifted[where] = operation.apply(drifted[where], strength, generators)
        return drifted

    def concept(self, labels: torch.Tensor, start: int) -> torch.Tensor:
        """The correct labels (B,) at stream positions `start`..`start + B - 1`, given the original ones (B,) int64."""
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
        """The labels sent, (B,) int64, -1 for none, if `concept` (B,) are the correct ones; seeded as in `apply`."""
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
        """The delay of each label in images, (size,) int64."""
        delays = torch.zeros(size, dtype=torch.int64)
        for piece in self._pieces("late", start, size):
            for position in piece.within(start, size):
                delays[position - start] = round(piece.strength_at(position))
        return delays

    def weights(self, position: int, classes: int) -> torch.Tensor | None:
        """The class frequencies (classes,) float64 at a position, not normalised; None: those of the images."""
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
        """The maximum delay of a label, in images."""
        return max((round(piece.strength) for piece in self.ranges if piece.name == "late"), default=0)

    def uses(self, *names: str) -> bool:
        """Whether the scenario contains any of these operations."""
        return any(piece.name in names for piece in self.ranges)

    def check(self, held: torch.Tensor) -> None:
        """Check the scenario against the classes; `held` (classes,) bool says which classes have images.

        Raises:
            SettingsError: the scenario names a class that does not exist, or leaves no class to draw from.
        """
        classes = len(held)
        for piece in self.ranges:
            if piece.classes and max(piece.classes) >= classes:
                raise SettingsError(
                    f"drift {piece.label!r}: there is no class {max(piece.classes)}; use 0 to {classes - 1}"
                )
        for position in (0, *self.boundaries()):
            weights = self.weights(position, classes)
            if weights is not None and not (weights * held).any():
                raise SettingsError(
                    f"drift: {self.active(position)} leaves no class to draw from at image {position}; choose ranges "
                    "that share at least one class with images"
                )

    def _pieces(self, name: str, start: int, size: int) -> list[Range]:
        return [piece for piece in self.ranges if piece.name == name and piece.within(start, size)]

    def active(self, position: int) -> str:
        """The active operations at a position, for display: ``swap``, ``noise:0.12 + invert``, or ``clean``."""
        active = [piece.label for piece in self.ranges if piece.start <= position < piece.end]
        return " + ".join(active) or "clean"

    def boundaries(self) -> tuple[int, ...]:
        """The positions where a range begins or ends, ascending, without 0."""
        return tuple(sorted({edge for piece in self.ranges for edge in (piece.start, piece.end)} - {0}))


def _kind(name: str) -> Strength:
    """The allowed strength of an operation."""
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
        raise SettingsError(f"drift {piece!r}: the range {start}-{end} is empty; its end must exceed its start")
    if match["ramp"] and name in (*CLASSED, "prior"):
        raise SettingsError(f"drift {piece!r}: {name} cannot ramp; write it without ~")
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
        raise SettingsError(f"drift {piece!r}: {name} needs distinct class numbers: {example}@start-end")
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
    # Phrased so that NaN fails too.
    if not kind.low <= strength <= kind.high or (kind.whole and strength % 1):
        raise SettingsError(f"drift {piece!r}: {name} cannot be {text} ({allowed})")
    return strength


@lru_cache(maxsize=64)
def _uneven(seed: int, classes: int) -> torch.Tensor:
    """Class frequencies (classes,) drawn from a symmetric Dirichlet distribution."""
    drawn = np.random.default_rng(seed).dirichlet(np.full(classes, CONCENTRATION))
    return torch.from_numpy(drawn)


def _root(seed: int, number: int) -> int:
    """The first seed of a range's positions; it differs by range, so that two noises on one image differ."""
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def _generators(root: int, positions: range) -> list[torch.Generator]:
    # torch's Mersenne Twister uses only 32 bits of the seed.
    return [torch.Generator().manual_seed((root + position) & 0xFFFFFFFF) for position in positions]
