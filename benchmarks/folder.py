"""Training on a folder of half a million pictures: how much memory it takes, and what decoding them once saves.

Writes PNG files of synthetic images (each moved at random, so that no two are alike), then measures `cifarctl train`
for one epoch on them, twice: the first time every picture is decoded, the second time they are mapped from the file
that the first one has left in the user's cache folder. Memory is RssAnon, looked at five times a second: what the
process holds that is neither a mapped file nor shared (Linux).
Required: RssAnon of at most 1.5 GiB.

    python -m benchmarks.folder [--images 500000]

Half a million files need 2 GB of disk and 1.5 GB for what is decoded. Exit status 1 if the requirement is missed.
Last run: see benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.bed import Requirement, verdict
from benchmarks.process import CIFARCTL, Running, machine
from cifarctl import cpus
from cifarctl.data import synthetic

DRAWN = 5000  # images that all others are made of
LIMIT_MIB = 1536
PATIENCE_S = 7200.0
TESTED = 2000


def write(root: Path, part: str, images: int, seed: int) -> None:
    """So many pictures below ``root/part``."""
    drawn = synthetic.draw(min(DRAWN, images), seed=0)
    pixels, labels = drawn.pixels.permute(0, 2, 3, 1).numpy(), drawn.labels.tolist()
    random = np.random.default_rng(seed)
    for name in synthetic.CLASSES:
        (root / part / name).mkdir(parents=True, exist_ok=True)
    for number in range(images):
        which = number % len(labels)
        moved = np.roll(pixels[which], random.integers(-6, 7, 2), (0, 1)) ^ random.integers(0, 8, 3, dtype=np.uint8)
        path = root / part / synthetic.CLASSES[labels[which]] / f"{seed}-{number}.png"
        Image.fromarray(moved).save(path, compress_level=1)


def train(root: Path, registry: Path) -> tuple[dict[str, Any], float, float]:
    """What `cifarctl train` says, the seconds it took, and the most RssAnon in MiB."""
    settings = {"data.source": "folder", "data.dir": root, "registry.dir": registry}
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    began = time.perf_counter()
    with Running([*CIFARCTL, "train", "--json", "--epochs", "1", *words]) as running:
        most = running.most_anonymous_mib(PATIENCE_S)
        return running.result(60.0), time.perf_counter() - began, most


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.folder", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=500_000)
    given = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor() as pool:
        root = Path(folder)
        os.environ["XDG_CACHE_HOME"] = str(root / "cache")
        workers = cpus.count()
        parts = [("train", given.images // workers)] * workers + [("test", TESTED)]
        for done in [pool.submit(write, root / "pictures", *part, seed) for seed, part in enumerate(parts)]:
            done.result()
        print(f"{given.images:,} pictures{'':>8}{'seconds':>10}{'peak RssAnon MiB':>20}{'test accuracy':>16}")
        highest = 0.0
        for name in ("decoding them", "from the cache"):
            result, seconds, most = train(root / "pictures", root / "registry")
            print(f"{name:<24}{seconds:>10.1f}{most:>20.0f}{result['test_accuracy']:>16.4f}", flush=True)
            highest = max(highest, most)
    sys.exit(verdict("folder", [Requirement("peak RssAnon, MiB", highest, most=LIMIT_MIB)]))


if __name__ == "__main__":
    main()
