"""The model without Kafka: what `serve` could do if reading, decoding and answering cost nothing.

One process loads the registry's production version as `serve` does (same backend, precision and number of threads) and
runs it over batches of the stream's images, different ones in turns, from memory, for some seconds after a warm-up.

    python -m benchmarks.model --registry DIR --images FILE.npy [--backend auto] [--batch 128] [--seconds 3]

Prints one JSON document: images a second, and what the backend is.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from cifarctl import cpus
from cifarctl.registry import Registry
from cifarctl.registry.loading import load
from cifarctl.serving.backend_selection import prepare
from cifarctl.settings import RegistrySettings, ServeSettings

WARM_UP_S = 0.5


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model")
    for name in ("registry", "images"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--batch", type=int, default=ServeSettings().batch_size)
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()

    threads = max(1, cpus.count() // 2)
    torch.set_num_threads(threads)
    registry = Registry(RegistrySettings(dir=given.registry))
    chosen = ServeSettings(backend=given.backend, batch_size=given.batch)
    backend = prepare(load(registry, "production"), registry, chosen, threads).backend
    images = torch.from_numpy(np.load(given.images))
    batches = [images[start : start + given.batch] for start in range(0, len(images) - given.batch + 1, given.batch)]

    began = time.perf_counter()
    handled, warm = 0, False
    while (elapsed := time.perf_counter() - began) < given.seconds or not warm:
        if not warm and elapsed > WARM_UP_S:
            began, handled, warm = time.perf_counter(), 0, True
        backend(batches[handled // given.batch % len(batches)]).max(dim=1)
        handled += given.batch
    told = {"messages_per_second": handled / elapsed, "backend": f"{backend.name}, {backend.precision}"}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
