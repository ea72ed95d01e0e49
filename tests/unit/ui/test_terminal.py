"""What reaches a terminal: nothing that steers it, whatever comes from outside."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import picture_folders
from helpers import cifarctl, draft, open_registry
from hostile import HOSTILE, clean, poisoned
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text
from screens import ONLINE_STARTED, text_of

from cifarctl import events
from cifarctl.cli import streams
from cifarctl.registry import Move
from cifarctl.settings import explain
from cifarctl.ui.contest import contest_tables
from cifarctl.ui.output import Output
from cifarctl.ui.serve import ServeView
from cifarctl.ui.tables import (
    checks_table,
    config_table,
    evaluation,
    history_table,
    letters_table,
    manifest_table,
    removed_table,
    verify_table,
    versions_table,
)
from cifarctl.ui.text import printable
from cifarctl.ui.widgets import cell

BENIGN = "x" * len(HOSTILE)


def test_an_id_forges_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    from screens import batch

    view = ServeView(print_images=True)
    view.update(ONLINE_STARTED)
    served = batch(1, ids=["a\nb  cat  1.00  correct\x1b[2K[red]"])
    view.update(served)
    for line in view.lines(served):
        Output(dashboard=False).log(line)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(r"a\nb  cat  1.00  correct\x1b[2K[red]  cat  0.88")


MOVE = Move(
    time="2026-01-01T00:00:00+00:00", alias="a", action="promote", from_version=1, to_version=2, who="w", why="y",
    generation=1,
)  # fmt: skip
LETTER = {
    "partition": 0, "offset": 1, "time": None, "id": "i", "class": "c", "message": "m", "stage": "s", "size": 1,
    "source": {"topic": "t", "partition": 0, "offset": 2}, "digested": False, "replayed": True,
}  # fmt: skip


def tables(text: str) -> dict[str, Any]:
    move = MOVE.model_copy(update={"who": text, "why": text, "alias": text})
    version = {"version": 1, "created": text, "model": text, "parent": None, "metrics": {}, "aliases": [text]}
    manifest = {"model": text, "classes": [text], "created": text}
    names = {f"{text}{number}": 0.5 for number in range(2)}
    return {
        "history": history_table([move]),
        "letters": letters_table([poisoned(LETTER | {"time": None}, text)]),
        "versions": versions_table([version], Path("/r")),
        "manifest": manifest_table(manifest, Path("/r"), [Path("/r/plots/a.png")]),
        "removed": removed_table([{"version": 1, "path": "/r/1", "reason": text, "bytes": 1}], dry_run=True),
        "verify": verify_table([{"version": 1, "problem": text}], Path("/r")),
        "checks": checks_table([{"check": "data", "ok": True, "finding": text}]),
        "evaluation": evaluation(events.EvaluateResult(1, 0.5, 0.5, 0.5, names, [[1, 2], [3, 4]])),
        "config": config_table(explain({"kafka.group_id": "g[red]"})),
        "contest": contest_tables(
            events.StreamResult(text, text, 1, 100, None, text, [poisoned(STRATEGY, text)])
        ),
    }  # fmt: skip


STRATEGY = events.StrategyResult(
    strategy="s", seed=0, prequential_accuracy=0.5, recovered_share=None,
    phases=[events.Phase("p", 0, 50, 0.5, None), events.Phase("q", 50, 100, 0.5, None)], final={"clean": 0.5},
    detections=[], detection_delays=[], false_alarms=0, promotions=0, rollbacks=0, updates=0, seconds=1.0, curve=[0.5],
)  # fmt: skip


@pytest.mark.parametrize("name", ["history", "letters", "versions", "manifest", "removed", "verify", "checks",
                                  "evaluation", "contest", "config"])  # fmt: skip
def test_no_table_steers_the_terminal(name: str) -> None:
    hostile = text_of(tables(HOSTILE)[name], width=4000)
    text = clean(hostile)
    assert len(hostile) == len(text_of(tables(BENIGN)[name], width=4000))
    if name not in ("evaluation", "config"):
        assert r"x\n" in text
        assert r"\u202e" in text
        assert "[red]:cat:[/]" in text


@given(st.text())
def test_printable_text_stays_and_the_rest_is_escaped(text: str) -> None:
    found = printable(text)
    assert found.isprintable()
    assert printable(found) == found
    found.encode()
    if text.isprintable() and text.isascii():
        assert found == text


def test_styles_survive_escaping() -> None:
    found = cell(Text.assemble(("bad\x85", "red"), " good"))
    assert isinstance(found, Text)
    assert found.plain == "bad\\u0085 good"
    assert any(span.style == "red" and span.start == 0 for span in found.spans)


def test_a_byte_that_is_not_text_is_escaped() -> None:
    assert printable("caf\udce9\x9b") == r"caf\xe9\u009b"


def test_words_and_warnings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.say("a\nb\x1b[0m [red]:cat:")
    output.warn("c\nd\x1b[0m")
    assert capsys.readouterr() == ("a\\nb\\x1b[0m [red]:cat:\n", "c\\nd\\x1b[0m\n")


def test_errors_are_one_clean_line() -> None:
    result = cifarctl("registry", "list", "--set=registry.keep=\x1b[31m\u202e")
    assert result.exit_code == 2
    clean(result.stderr.splitlines())
    assert r"\x1b[31m\u202e" in result.stderr


@pytest.fixture
def home(tmp_path: Path) -> list[str]:
    """Options that lead to a registry of one version, which nobody can load."""
    registry = open_registry(tmp_path / "registry")
    registry.publish(draft(), b"weights")
    registry.promote(1, who="\x1b[1mcli", why="fine\n01-01 00:00 UTC  production\u202e")
    return [f"--set=registry.dir={registry.dir}"]


def test_the_history_shows_a_reason_on_one_line(home: list[str]) -> None:
    result = cifarctl("registry", "history", *home)
    assert r"fine\n01-01" in " ".join(result.stdout.split())
    clean(result.stdout.splitlines())


def test_symbols_have_plain_substitutes_of_the_same_width() -> None:
    assert "0–2 → 5 …█░ é".translate(streams.PLAIN) == "0-2 > 5 .#. é"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["produce", "--rate", "inf"], "--rate inf: expected a finite number"),
        (["produce", "--rate", "nan"], "--rate nan: expected a finite number"),
        (["produce", "--label-delay", "inf"], "--label-delay inf"),
        (["serve", "--idle-timeout", "inf"], "--idle-timeout inf"),
        (["eval", "--stream", "none", "--rate", "inf"], "--rate inf"),
        (["config", "--set=produce.rate=inf"], "produce.rate = inf (option): should be a finite number"),
        (["config", "--set=online.label_wait=nan"], "online.label_wait = nan (option)"),
        (["config", "--set=kafka.timeout_s=nan"], "kafka.timeout_s = nan (option)"),
        (["config", "--set=train.learning_rate=inf"], "train.learning_rate = inf (option)"),
        (["config", "--set=serve.json_mean=[NaN,0.5,0.5]"], "serve.json_mean = nan (option)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_no_figure_is_infinite(arguments: list[str], told: str) -> None:
    result = cifarctl(*arguments)
    assert result.exit_code == 2
    assert told in result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems make names UTF-8")
def test_a_class_folder_that_is_not_text_fails_at_once(tmp_path: Path) -> None:
    folder = picture_folders(tmp_path / "pictures", {"train": ("cat", "dog"), "test": ("cat",)}, count=1)
    os.rename(folder / "train" / "dog", os.fsencode(folder / "train") + b"/d\xff")  # noqa: PTH104
    result = cifarctl("train", f"--set=data.dir={folder}", "--set=data.source=folder", "--epochs=1", "--json")
    assert result.exit_code == 3
    (line,) = result.stderr.splitlines()
    assert r"train/d\xff: the name of this class folder is not UTF-8; rename it" in line
