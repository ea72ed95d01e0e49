"""Training on the real CIFAR-10: cifarctl against the tutorial's trainer.

Measures: test accuracy, time and memory of `cifarctl train --full` (all 50,000 training images), of the tutorial's
trainer on the same images, and of `cifarctl train` without --full (35,000). Each is a process of its own and tests
on the same 10,000 images at the end. They run one after the other, the tutorial's between the two of ours, once a
seed. Time is told three ways: of the epochs alone, of the whole process by the clock, and of CPU, which a noisy
neighbour disturbs least. Ratios are ours, with --full, to the tutorial's.
Required: test accuracy >= 0.795 with --full, >= 0.76 without, time <= 0.35 of the tutorial's, memory < 2 GiB.

With --strong also the strong model: `cifarctl train --full --model airbench --epochs 8` (>= 0.933, averaged over
variants of an image >= 0.94, at most 2.5 times the tutorial's ten epochs) and `cifarctl train --model airbench
--target-accuracy 0.9` (>= 0.9, at most 0.9 times).

    python -m benchmarks.train [--epochs 10] [--seeds 1] [--quick] [--strong]

--quick runs the tutorial for two epochs only and scales their time; its accuracy then says nothing.
CIFAR-10 is looked for in the setting data.dir (CIFARCTL_DATA__DIR).

Last run: see benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

from benchmarks.process import CIFARCTL, TUTORIAL, Ran, machine, run
from cifarctl import settings

QUICK_EPOCHS = 2


STRONG = (
    ("airbench --full", ("--full", "--model", "airbench", "--epochs", "8")),
    ("airbench to 0.9", ("--model", "airbench", "--target-accuracy", "0.9")),
)


def ours(data: Path, registry: Path, seed: int, *words: str) -> Ran:
    """`cifarctl train` in a registry of its own."""
    places = ["--set", "data.source=cifar10", "--set", f"data.dir={data}", "--set", f"registry.dir={registry}"]
    return run([*CIFARCTL, "train", "--json", "--seed", str(seed), *words, *places])


def tutorials(data: Path, epochs: int, seed: int) -> Ran:
    """The tutorial's trainer."""
    return run([*TUTORIAL, "train", "--data", str(data), "--epochs", str(epochs), "--seed", str(seed)])


def row(
    name: str,
    images: int,
    accuracy: float | None,
    epochs: float,
    wall: float | None,
    ran: Ran,
    averaged: float | None = None,
) -> str:
    """One line of the table; what was not measured is a dash."""
    shown = "-" if accuracy is None else f"{accuracy:.4f}"
    clock = "-" if wall is None else f"{wall:.1f}"
    cpu = "-" if wall is None else f"{ran.cpu_seconds:.1f}"
    mean = "-" if averaged is None else f"{averaged:.4f}"
    return f"{name:<24}{images:>8,}{shown:>10}{mean:>10}{epochs:>10.1f}{clock:>10}{cpu:>10}{ran.peak_mib:>10.0f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--strong", action="store_true")
    given = parser.parse_args()
    data = settings.load().data.dir.resolve()
    epochs = min(QUICK_EPOCHS, given.epochs) if given.quick else given.epochs

    print(machine())
    print(
        f"{'':<24}{'images':>8}{'test':>10}{'averaged':>10}{'epochs s':>10}{'clock s':>10}{'CPU s':>10}{'peak MiB':>10}"
    )
    ratios: dict[str, list[float]] = defaultdict(list)
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as registry:
            place, count = Path(registry), ("--epochs", str(given.epochs))
            full = ours(data, place, seed, *count, "--full")
            tutorial = tutorials(data, epochs, seed)
            found = {"cifarctl train --full": full, "cifarctl train": ours(data, place, seed, *count)}
            if given.strong:
                found |= {name: ours(data, place, seed, *words) for name, words in STRONG}
        for name, ran in found.items():
            result = ran.result
            images, accuracy, averaged = (result[key] for key in ("train_images", "test_accuracy", "test_accuracy_tta"))
            print(row(f"{name}, seed {seed}", images, accuracy, result["seconds"], ran.seconds, ran, averaged))
        spent = statistics.mean(tutorial.result["epoch_seconds"]) * given.epochs
        whole = epochs == given.epochs
        accuracy = tutorial.result["test_accuracy"] if whole else None
        wall = tutorial.seconds if whole else None
        name = f"tutorial, seed {seed}" + ("" if whole else ", scaled")
        print(row(name, tutorial.result["train_images"], accuracy, spent, wall, tutorial), flush=True)
        for name, ran in found.items():
            ratios[f"{name}: epochs"].append(ran.result["seconds"] / spent)
            if whole:
                ratios[f"{name}: clock"].append(ran.seconds / tutorial.seconds)
                ratios[f"{name}: CPU"].append(ran.cpu_seconds / tutorial.cpu_seconds)
    print("to the tutorial's ten epochs:")
    for name, values in ratios.items():
        print(f"{name:<40}{statistics.median(values):>8.3f}")


if __name__ == "__main__":
    main()
