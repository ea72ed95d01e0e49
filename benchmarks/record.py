"""The record of the benchmarks: results as JSON files, and the table of benchmarks/README.md that is made of them.

Each benchmark passes its verdict to `write`, which keeps it in ``<folder>/<machine>.json`` if the environment variable
BENCH_RESULTS names that folder, as `make bench` does. The machine is named after its processor, never after its host.
A file is a list of results, one for each requirement; a new result replaces the one of the same requirement.

    python -m benchmarks.record

writes the table anew, with one row for each requirement. Of several machines a row takes one with bfloat16, which the
ratios of `serve` rest on, and of those the one with the lowest load average; whether a requirement was met decides
nothing. A note is written manually, where a reader has to know something about a run; the next run drops it.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from benchmarks import process
from cifarctl import cpus

VARIABLE = "BENCH_RESULTS"
ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "benchmarks" / "README.md"
BEGIN, END = "<!-- results -->\n", "<!-- /results -->"
REPORTED = "reported"  # measured, but nothing is required
#: The order of `make bench`; `eval` has no module, its results are written manually.
ORDER = ("startup", "stream", "latency", "memory", "scale", "faults", "train", "convolution", "folder", "live", "eval")


@dataclass(frozen=True)
class Figure:
    """One line of a verdict: the measured value (None: it could not be measured) and what is required of it."""

    name: str
    required: str
    value: float | None
    met: bool


@dataclass(frozen=True)
class Result(Figure):
    """A figure with its circumstances; None where they are unknown.

    `date` is ISO 8601 in UTC. `load_average` is that of the minute before the benchmark began.
    """

    benchmark: str
    processor: str
    cores: int
    bfloat16: bool
    commit: str | None
    date: str | None
    load_average: float | None
    note: str = ""

    @property
    def machine(self) -> str:
        """The name of this result's file, without its suffix."""
        return machine(self.processor, self.cores, bfloat16=self.bfloat16)


def machine(processor: str, cores: int, *, bfloat16: bool) -> str:
    """A machine's name: the processor's in lower case, without trademarks, its cores, and bfloat16 if it has that.

    Clouds call processors with and without bfloat16 by one name, which would put their results into one file.
    """
    words = [re.sub(r"\((r|tm|c)\)", " ", processor.lower()), f"{cores} cores", "bfloat16" if bfloat16 else ""]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words)).strip("-")


def write(benchmark: str, figures: Iterable[Figure]) -> Path | None:
    """Keep the figures of this run, on this machine; the file, or None if BENCH_RESULTS is not set."""
    if not (folder := os.environ.get(VARIABLE)):
        return None
    results = [
        Result(
            **asdict(figure),
            benchmark=benchmark,
            processor=process.processor(),
            cores=cpus.count(),
            bfloat16=process.bfloat16(),
            commit=commit(),
            date=datetime.now(timezone.utc).date().isoformat(),
            load_average=round(process.LOAD_AT_START, 2),
        )
        for figure in figures
    ]
    return keep(results, Path(folder)) if results else None


def keep(results: Sequence[Result], folder: Path) -> Path:
    """Put results of one machine into its file, in place of those of the same requirements; the file."""
    path = folder / f"{results[0].machine}.json"
    kept = {(each.benchmark, each.name): each for each in (read(path) if path.exists() else [])}
    kept |= {(each.benchmark, each.name): each for each in results}
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps([asdict(each) for each in kept.values()], indent=2, allow_nan=False) + "\n")
    partial.replace(path)
    return path


def read(path: Path) -> list[Result]:
    """The results of one file.

    Raises:
        TypeError: an entry lacks a field or has one too many.
    """
    return [Result(**entry) for entry in json.loads(path.read_text())]


def commit() -> str | None:
    """The commit that is checked out, with ``-dirty`` if the code differs from it; None outside of git."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short=7", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        differs = subprocess.run(
            ["git", "diff", "--quiet", "HEAD", "--", "cifarctl", "benchmarks/*.py"], cwd=ROOT, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip() + ("-dirty" if differs.returncode else "")


def table(results: Iterable[Result]) -> str:
    """The table in Markdown: a row for each requirement, in the order of `make bench` and then of the files."""
    chosen: dict[tuple[str, str], Result] = {}
    for result in results:
        key = (result.benchmark, result.name)
        known = chosen.get(key)
        if known is None or _preference(result) < _preference(known):
            chosen.pop(key, None)  # so that rows of one file stay together
            chosen[key] = result
    rows = [each for each in chosen.values() if each.required != REPORTED]
    rows.sort(key=lambda each: ORDER.index(each.benchmark) if each.benchmark in ORDER else len(ORDER))  # stable
    heads = ["| benchmark | figure | required | measured | processor | load | commit |", "|" + "---|" * 7]
    return "\n".join([*heads, *map(_row, rows)]) + "\n"


def update(readme: Path = README, folder: Path = RESULTS) -> None:
    """Write the table between the marks of `readme` anew.

    Raises:
        ValueError: the marks are not there.
    """
    text = readme.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{readme}: no {BEGIN.strip()} and {END} to write the table between")
    readme.write_text(before + begin + table(everything(folder)) + end + after)


def everything(folder: Path = RESULTS) -> list[Result]:
    """The results of all machines, file by file; those with bfloat16 give the table its order."""
    return sorted((each for path in sorted(folder.glob("*.json")) for each in read(path)), key=lambda x: not x.bfloat16)


def _preference(result: Result) -> tuple[bool, float]:
    load = math.inf if result.load_average is None else result.load_average / result.cores
    return not result.bfloat16, load


def _row(result: Result) -> str:
    bound = result.required.replace("<=", "at most").replace(">=", "at least")
    measured = "–" if result.value is None else f"{result.value:,.4g}"
    measured += ("" if result.met else ", **missed**") + (f" ({result.note})" if result.note else "")
    brand = re.sub(r"\((R|TM|C)\)", "", result.processor, flags=re.IGNORECASE)
    place = f"{brand}, {result.cores} cores, {'bfloat16' if result.bfloat16 else 'no bfloat16'}"
    load = "–" if result.load_average is None else f"{result.load_average:.2f}"
    built = f"`{result.commit}`" if result.commit else "–"
    return f"| {result.benchmark} | {result.name} | {bound} | {measured} | {place} | {load} | {built} |"


if __name__ == "__main__":
    update()
