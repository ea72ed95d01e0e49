"""Detects images sent in the wrong memory layout or on the wrong scale.

No single image is refused for this, because none is certainly wrong; a few dozen are conclusive. Measured on CIFAR-10
and on the synthetic images, under every drift operation at its lowest, highest and some middle strengths, 2,000 images
each: no channels-first image scored above `MIN_ROUGHNESS`, and at most 42 % had no dark pixel (contrast 0; next
contrast 0.1 with 28 %, clean 0). At least 95 % of channels-last images scored above it, unless a drift left almost
nothing of the images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cifarctl.stream.records import RAW_BYTES, SIDE, Decoded, Flags, Pixels, Record

#: Images that are judged together, and the most from one batch.
WINDOW = 32
#: After this many images only a few of each batch are checked, because the producers are known: 4 take 0.1 ms.
WARMUP = 20 * WINDOW
SAMPLE = 4
#: Channels-last images in a window that are worth a notice: only some of many producers may send them.
MIN_CHANNELS_LAST = WINDOW // 4
#: How much rougher (-1 to 1) an image must be as channels first than as channels last to be suspected.
MIN_ROUGHNESS = 0.1
#: If JSON's 0 is a darker pixel than this, images without darker pixels show nothing.
DARK = 64


class LayoutCheck:
    """Checks some images of each batch, and reports each kind of problem once."""

    def __init__(self, json_mean: Sequence[float]) -> None:
        """`json_mean`: the pixel that a value of 0 in JSON becomes, on the 0-1 scale."""
        self._zero = int(255 * min(json_mean))
        self._looked = 0
        self._layout = _Window(MIN_CHANNELS_LAST)
        self._scale = _Window(WINDOW)

    def look(self, batch: Decoded) -> Iterator[str]:
        """Notices for people after `batch`."""
        if not batch.ids:
            return
        limit = WINDOW if self._looked < WARMUP else SAMPLE
        places = np.linspace(0, len(batch.ids) - 1, min(limit, len(batch.ids)), dtype=int)
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
                f"none of {WINDOW} JSON images has a value below 0: they seem to be on the 0-1 scale, not normalised; "
                "for such a producer set serve.json_mean to [0, 0, 0] and serve.json_std to [1, 1, 1]"
            )


class _Window:
    """Counts suspicious images, window by window, until one window has too many."""

    def __init__(self, limit: int) -> None:
        self._limit, self._seen, self._odd, self._told = limit, 0, 0, False

    def add(self, odd: Flags) -> int:
        """The suspicious images in a window, if it ends here and is the first with too many; else 0."""
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
    """Which images (B, 3, 32, 32) uint8 are smoother if their bytes are read as (B, 32, 32, 3).

    The next row is `SIDE` bytes further in the first layout, and three times as far in the second.
    """
    flat = pixels.reshape(len(pixels), -1).astype(np.int16)
    first, last = (np.abs(flat[:, step:] - flat[:, :-step]).mean(axis=1) for step in (SIDE, 3 * SIDE))
    return np.asarray((first - last) / (first + last + 1) > MIN_ROUGHNESS)


def _is_json(record: Record) -> bool:
    value = record.value or b""
    return value[:64].lstrip().startswith(b"{") and len(value) > RAW_BYTES
