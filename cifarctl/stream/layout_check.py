"""Whether a stream's images are what their bytes are taken for: layouts and scales that give themselves away.

No single image is refused for this, since none is certain to be wrong; over some dozens of them there is no doubt.
Measured on CIFAR-10 and the synthetic images under every drift operation at its lowest and highest strength and some
between, 2,000 images each: not one that was channels first scored above `ROUGHER`, and at most 42 % had no dark pixel
(contrast 0; next contrast 0.1 with 28 %, clean 0). Of channels last 95 % or more score above it, unless a drift has
left next to nothing of the images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cifarctl.stream.records import RAW_BYTES, SIDE, Decoded, Flags, Pixels, Record

#: Images that are judged together, and at most so many of a batch.
WINDOW = 32
#: After so many images fewer are looked at, as the producers are known by then: 4 of a batch take 0.1 ms.
KNOWN = 20 * WINDOW
SAMPLE = 4
#: Images of a window with channels last from which on it is said: a few producers of many may send them.
SOME = WINDOW // 4
#: How much rougher an image is as channels first than as channels last, -1 to 1, so that it is suspected.
ROUGHER = 0.1
#: Where 0 stands for a pixel darker than this, images without darker ones tell nothing.
DARK = 64


class LayoutCheck:
    """Looks at some images of each batch, and says each of its doubts once."""

    def __init__(self, json_mean: Sequence[float]) -> None:
        """`json_mean` is what JSON's values of 0 become."""
        self._zero = int(255 * min(json_mean))
        self._looked = 0
        self._layout = _Window(SOME)
        self._scale = _Window(WINDOW)

    def look(self, batch: Decoded) -> Iterator[str]:
        """What there is to say after `batch`."""
        if not batch.ids:
            return
        most = WINDOW if self._looked < KNOWN else SAMPLE
        places = np.linspace(0, len(batch.ids) - 1, min(most, len(batch.ids)), dtype=int)
        self._looked += len(places)
        pixels = batch.pixels[places]
        if found := self._layout.add(channels_last(pixels)):
            yield (
                f"{found} of {WINDOW} images look like rows x columns x channels, but are read as channels x rows x "
                "columns: transpose them in the producer (`image.transpose(2, 0, 1)`)"
            )
        as_json = pixels[[_is_json(batch.records[place]) for place in places]].reshape(-1, RAW_BYTES)
        if self._zero >= DARK and self._scale.add(as_json.min(axis=1, initial=255) >= self._zero):
            yield (
                f"none of {WINDOW} JSON images holds a value below 0: they seem to be from 0 to 1, not normalised; for "
                "such a producer set serve.json_mean to [0, 0, 0] and serve.json_std to [1, 1, 1]"
            )


class _Window:
    """Counts what is odd, window by window, until it is too much once."""

    def __init__(self, limit: int) -> None:
        self._limit, self._seen, self._odd, self._told = limit, 0, 0, False

    def add(self, odd: Flags) -> int:
        """How many of a window are odd, where these end one and that is too many for the first time; else 0."""
        if self._told:
            return 0
        for one in odd.tolist():
            self._seen += 1
            self._odd += one
            if self._seen == WINDOW:
                if self._odd >= self._limit:
                    self._told = True
                    return self._odd
                self._seen = self._odd = 0
        return 0


def channels_last(pixels: Pixels) -> Flags:
    """Which images (B, 3, 32, 32) uint8 are smoother if their bytes are taken as (B, 32, 32, 3).

    One row further down is `SIDE` bytes on in the one layout, thrice as many in the other.
    """
    flat = pixels.reshape(len(pixels), -1).astype(np.int16)
    first, last = (np.abs(flat[:, step:] - flat[:, :-step]).mean(axis=1) for step in (SIDE, 3 * SIDE))
    return np.asarray((first - last) / (first + last + 1) > ROUGHER)


def _is_json(record: Record) -> bool:
    value = record.value or b""
    return value[:64].lstrip().startswith(b"{") and len(value) > RAW_BYTES
