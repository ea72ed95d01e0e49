"""The record of the benchmarks: verdicts become JSON files, and those the table of benchmarks/README.md."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import bed, faults, process, record
from benchmarks.bed import Requirement
from benchmarks.record import Result

MET = Requirement("made up : half", 1.23456, most=2)
MISSED = Requirement("seconds of nothing", 5, least=30)
RESULT = Result(
    name="made up : half",
    required="<= 2",
    value=1.5,
    met=True,
    benchmark="stream",
    processor="Made(R) Up(TM) CPU @ 2.1GHz",
    cores=2,
    bfloat16=True,
    commit="0123abc",
    date="2026-12-01",
    load_average=0.1,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where results are recorded, as `make bench` asks for it."""
    monkeypatch.setenv(record.VARIABLE, str(tmp_path / "results"))
    return tmp_path / "results"


def test_the_table_of_the_readme_is_made_of_the_results() -> None:
    _, _, rest = record.README.read_text().partition(record.BEGIN)
    assert rest.partition(record.END)[0] == record.table(record.everything())


def test_the_readme_opens_with_the_table() -> None:
    assert record.README.read_text().startswith(f"# Benchmarks\n\n{record.BEGIN}| benchmark |")


def test_files_hold_what_their_names_and_bounds_say() -> None:
    for path in record.RESULTS.glob("*.json"):
        for result in record.read(path):
            assert result.machine == path.stem
            bound, _, limit = result.required.partition(" ")
            assert result.benchmark in record.ORDER
            if bound == "<=":
                assert result.met == (result.value is not None and result.value <= float(limit))
            elif bound == ">=":
                assert result.met == (result.value is not None and result.value >= float(limit))
            else:
                assert (bound, result.met) == (record.REPORTED, True)


def test_a_verdict_is_recorded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bed.verdict("stream", [MET, MISSED, Requirement("speed", 7)]) == 1
    assert "MISSED" in capsys.readouterr().out
    (path,) = folder.iterdir()
    met, missed, reported = record.read(path)
    assert (met.name, met.required, met.value, met.met) == ("made up : half", "<= 2", 1.2346, True)
    assert (missed.name, missed.required, missed.value, missed.met) == ("seconds of nothing", ">= 30", 5, False)
    assert (reported.required, reported.met) == (record.REPORTED, True)
    assert path.stem == met.machine
    assert (met.benchmark, met.processor, met.bfloat16) == ("stream", process.processor(), process.bfloat16())
    assert met.load_average == round(process.LOAD_AT_START, 2)
    assert met.date is not None
    assert len(met.date) == len("2026-12-01")


def test_nothing_is_recorded_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(record.VARIABLE, raising=False)
    assert bed.verdict("stream", [MET]) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_result_round_trips(tmp_path: Path) -> None:
    unknown = replace(RESULT, name="other", commit=None, date=None, load_average=None, value=None, met=False, note="so")
    path = record.keep([RESULT, unknown], tmp_path)
    assert path.name == "made-up-cpu-2-1ghz-2-cores-bfloat16.json"
    assert record.read(path) == [RESULT, unknown]
    assert list(tmp_path.iterdir()) == [path]  # nothing unfinished is left


def test_a_new_result_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    other = replace(RESULT, name="other")
    record.keep([RESULT, other], tmp_path)
    path = record.keep([replace(RESULT, value=1.0)], tmp_path)
    assert record.read(path) == [replace(RESULT, value=1.0), other]


def test_unmeasured_is_missed(folder: Path) -> None:
    assert bed.verdict("faults", [Requirement("progress, s", math.nan, most=60)]) == 1
    (path,) = folder.iterdir()
    (result,) = record.read(path)
    assert (result.value, result.met) == (None, False)
    assert "NaN" not in path.read_text()
    assert "| –, **missed** |" in record.table([result])


def test_a_round_of_faults_requires_nothing_lost_nothing_doubled_and_progress() -> None:
    fine = faults.Round("classic", progress=[3.0, 60.0])
    assert fine.met
    assert [each.figure.value for each in fine.required] == [0, 0, 60]
    for changes in ({"lost": 1}, {"doubled": 1}, {"progress": [60.1]}, {"failure": "see above"}):
        assert not replace(fine, **changes).met  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("processor", "cores", "bfloat16", "name"),
    [
        ("AMD EPYC", 2, True, "amd-epyc-2-cores-bfloat16"),
        ("AMD EPYC", 2, False, "amd-epyc-2-cores"),
        ("Intel(R) Xeon(R) Processor", 16, True, "intel-xeon-processor-16-cores-bfloat16"),
    ],
)
def test_machines_are_named_after_their_processors(processor: str, cores: int, bfloat16: bool, name: str) -> None:
    assert record.machine(processor, cores, bfloat16=bfloat16) == name


def test_the_table_prefers_bfloat16_and_then_quiet_machines() -> None:
    busy = replace(RESULT, value=1.1, load_average=3.0)
    unknown = replace(RESULT, value=1.2, load_average=None)
    older = replace(RESULT, value=0.5, load_average=0.0, bfloat16=False)
    quiet = replace(RESULT, value=2.5, met=False, note="at night")
    table = record.table([older, busy, unknown, quiet])
    (row,) = table.splitlines()[2:]
    assert row == (
        "| stream | made up : half | at most 2 | 2.5, **missed** (at night) | Made Up CPU @ 2.1GHz, 2 cores, bfloat16 "
        "| 0.10 | `0123abc` |"
    )
    assert "| 1.2 |" in record.table([older, unknown])


def test_rows_are_in_the_order_of_make_bench() -> None:
    names = ("unheard of", "live", "startup", "train")
    rows = record.table([replace(RESULT, benchmark=name) for name in names]).splitlines()[2:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == ["startup", "train", "live", "unheard of"]
    assert record.table([replace(RESULT, required=record.REPORTED)]).count("\n") == 2


def test_the_readme_is_updated_between_its_marks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# Before\n\n{record.BEGIN}old\n{record.END}\nafter\n")
    record.keep([RESULT], tmp_path / "results")
    record.update(readme, tmp_path / "results")
    assert readme.read_text() == f"# Before\n\n{record.BEGIN}{record.table([RESULT])}{record.END}\nafter\n"
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="results"):
        record.update(readme, tmp_path / "results")
    assert readme.read_text() == "no marks"


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("model name\t: AMD EPYC\nflags\t\t: fpu avx2\n", ("AMD EPYC", False)),
        ("model name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512_bf16\n", ("AMD EPYC", True)),
        ("model name\t: Intel(R) Xeon(R)\nflags\t\t: amx_bf16 amx_tile\n", ("Intel(R) Xeon(R)", True)),
    ],
)
def test_processors_are_recognised(cpuinfo: str, expected: tuple[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.Path, "read_text", lambda path: cpuinfo)
    assert (process.processor(), process.bfloat16()) == expected


def test_results_are_plain_lists_of_the_named_fields(tmp_path: Path) -> None:
    (entry,) = json.loads(record.keep([RESULT], tmp_path).read_text())
    fields = {"name", "required", "value", "met", "processor", "bfloat16", "commit", "date", "load_average"}
    assert fields <= entry.keys()
