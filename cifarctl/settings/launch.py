"""The environment that torchrun gives to the processes it starts."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """The rank of this process among `size` processes, the id of their run, and how often torchrun restarted it.

    Each node has its own `restarts` counter, which counts restarts after a failure only. All processes share the id
    `run`; it is ``none`` unless torchrun was started with ``--rdzv-id``.
    """

    rank: int
    local_rank: int
    size: int
    restarts: int
    run: str

    @classmethod
    def present(cls) -> Launch | None:
        """Read it from the environment; None if torchrun did not start this process."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return None
        return cls(
            rank=int(os.environ["RANK"]),
            local_rank=int(os.environ["LOCAL_RANK"]),
            size=int(os.environ["WORLD_SIZE"]),
            restarts=int(os.environ["TORCHELASTIC_RESTART_COUNT"]),
            run=os.environ["TORCHELASTIC_RUN_ID"],
        )
