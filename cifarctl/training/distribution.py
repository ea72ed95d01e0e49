"""The processes that train one model together, as torchrun starts them: PyTorch's distributed data parallel."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cifarctl.errors import TeammateLost
from cifarctl.settings import Launch

#: After which a silent process counts as lost; the others wait while the first one evaluates, which may take long.
PATIENCE = timedelta(hours=1)


class Team:
    """The `size` processes of a run, seen from the one of this `rank`.

    All of them must make the same calls in the same order. A call that needs the others raises TeammateLost where
    one of them has ended.
    """

    def __init__(self, rank: int, size: int, device: torch.device, run: str = "none") -> None:
        self.rank, self.size, self.device, self.run = rank, size, device, run

    @property
    def first(self) -> bool:
        """Whether this is the process that yields events, evaluates and writes."""
        return self.rank == 0

    @property
    def accelerated(self) -> bool:
        """Whether this process computes on an accelerator."""
        return self.device.type != "cpu"

    def share(self, model: nn.Module, *, partly_used: bool = False) -> nn.Module:
        """`model`, wrapped so that its gradients are the mean over all processes.

        `partly_used`: the loss may depend on only some of its parameters. Batch normalisation uses each process's own
        part of a batch; the first process's statistics are kept.
        """
        if self.size == 1:
            return model
        places = [self.device.index] if self.device.type == "cuda" else None
        with losses():
            return DistributedDataParallel(model, places, find_unused_parameters=partly_used)

    def mine(self, places: torch.Tensor) -> torch.Tensor:
        """This process's part of a batch (B,)."""
        return places[self.rank :: self.size]

    def mean(self, value: float) -> float:
        """The mean of the value over all processes."""
        return self._sum(value) / self.size

    def told(self, value: Callable[[], float]) -> float:
        """The value that the first process computes."""
        return self._sum(value() if self.first else 0.0)

    def _sum(self, value: float) -> float:
        if self.size == 1:
            return value
        with losses():
            whole = torch.tensor(
                value, dtype=torch.float64, device=self.device if self.device.type == "cuda" else "cpu"
            )
            dist.all_reduce(whole)
        return whole.item()


@contextmanager
def team(launch: Launch | None, device: torch.device) -> Iterator[Team]:
    """The team that torchrun has launched this process into, or a team of this process alone.

    Raises:
        TeammateLost: another process has ended.
    """
    if launch is None:
        yield Team(0, 1, device)
        return
    cuda = device.type == "cuda"
    if device == torch.device("cuda"):  # no particular one: each process takes its own
        device = torch.device("cuda", launch.local_rank)
        torch.cuda.set_device(device)
    with losses():
        store, rank, size = next(dist.rendezvous("env://", timeout=PATIENCE))  # type: ignore[attr-defined]
        store = _fresh(store, rank, size)
        dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE, store=store, rank=rank, world_size=size)
    try:
        yield Team(launch.rank, launch.size, device, launch.run)
    finally:
        dist.destroy_process_group()


def _fresh(store: Any, rank: int, size: int) -> Any:
    """A fresh part of the store, without entries from before a restart, such as old addresses.

    The first process chooses the name of that part and passes it to each other process, under a name that the other has
    chosen, until all have confirmed it. The number of restarts cannot serve as the name: each node counts its own.
    """
    if rank:
        mine = uuid.uuid4().hex
        store.set(f"hello {rank}", mine)
        name: str = store.get(f"welcome {mine}").decode()  # waits for it
        store.set(f"here {name} {rank}", "")
    else:
        name, deadline = uuid.uuid4().hex, time.monotonic() + PATIENCE.total_seconds()
        missing = set(range(1, size))
        while missing:
            for other in sorted(missing):
                if store.check([f"here {name} {other}"]):
                    missing.remove(other)
                elif store.check([f"hello {other}"]):
                    store.set(f"welcome {store.get(f'hello {other}').decode()}", name)
            if time.monotonic() > deadline:
                raise TeammateLost(f"{len(missing)} of {size} processes of this run did not join within {PATIENCE}")
            time.sleep(0.02)
    return dist.PrefixStore(name, store)  # type: ignore[attr-defined]


@contextmanager
def losses() -> Iterator[None]:
    """Raise TeammateLost where another process has ended, in blocks that need all of them, such as gradients."""
    try:
        yield
    except RuntimeError as error:
        # NCCL has error classes of its own; gloo has none, but its messages name it or the connection that failed.
        if isinstance(error, dist.DistError) or "gloo" in str(error) or "onnection" in str(error):
            raise TeammateLost(
                "another process of this run has ended; the last checkpoint is kept: torchrun --max-restarts continues "
                f"from it, or the same command with --resume ({str(error).splitlines()[0][:200]})"
            ) from error
        raise
