"""Routing: the ids that the canary answers."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

DIGEST_BYTES = 8


def canary_side(ids: Sequence[str], share: float) -> NDArray[np.bool_]:
    """Whether each id (B,) is among the `share` (0 to 1) of all that the canary answers.

    An id is, when its BLAKE2b digest of eight bytes, as a big-endian number, is below that share of 2^64: the same on
    every replica, in every partition and for every canary, and a larger share only adds to a smaller one.
    """
    limit = share * 2.0 ** (8 * DIGEST_BYTES)
    return np.array(
        [int.from_bytes(blake2b(one.encode(), digest_size=DIGEST_BYTES).digest(), "big") < limit for one in ids],
        dtype=np.bool_,
    )
