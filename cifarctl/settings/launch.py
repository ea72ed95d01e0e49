"""What torchrun says of a process."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """What torchrun says to a process that it starts: its place among `size` of them, of which run, started how often.

    Each node counts its `restarts` for itself, and those for other reasons than a failure not at all; `run` is the same
    for all, but ``none`` where nobody has chosen it.
    """

    rank: int
    local_rank: int
    size: int
    restarts: int
    run: str

    @classmethod
    def present(cls) -> Launch | None:
        """That of this process; None where torchrun has not started it."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return None
        return cls(
            rank=int(os.environ["RANK"]),
            local_rank=int(os.environ["LOCAL_RANK"]),
            size=int(os.environ["WORLD_SIZE"]),
            restarts=int(os.environ["TORCHELASTIC_RESTART_COUNT"]),
            run=os.environ["TORCHELASTIC_RUN_ID"],
        )
