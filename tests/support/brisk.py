"""A learner that is in a hurry."""

from __future__ import annotations

from typing import Any

#: A learner that decides within seconds; after a drift it updates four times as often.
BRISK: dict[str, Any] = {
    "online__update_every": 600,
    "online__min_examples": 100,
    "online__buffer_size": 400,
    "online__reference_size": 500,
    "online__steps": 30,
    "online__batch_size": 64,
    "online__niceness": 0,
}
