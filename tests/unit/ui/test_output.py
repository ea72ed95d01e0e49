"""Output to people, to logs and as JSON."""

from __future__ import annotations

import io
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
from rich.console import RenderableType
from screens import LONG, TRAIN_RESULT

from cifarctl import events
from cifarctl.ui.output import Output, to_json


class Silent:
    def update(self, event: Any) -> None:
        self.last = event

    def render(self) -> RenderableType:
        return "panel"

    def lines(self, event: Any) -> Iterator[str]:
        yield f"line [of] {event.message}"


def notices(*messages: str) -> Iterator[events.Notice]:
    return map(events.Notice, messages)


def test_without_a_terminal_there_are_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    assert not output.live
    assert output.drain(notices("a", LONG), Silent()) == events.Notice(LONG)
    assert capsys.readouterr() == (f"line [of] a\nline [of] {LONG}\n", "")


def test_with_json_stdout_has_the_result_alone(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=True)
    output.drain(notices("a"), Silent())
    output.say("for people")
    output.warn("mind this")
    output.result(TRAIN_RESULT, "a summary")
    out, err = capsys.readouterr()
    assert json.loads(out)["version"] == 3
    assert "line [of] a" in err
    assert "for people" in err
    assert "mind this" in err
    assert "a summary" not in out + err


def test_quiet_lets_warnings_and_results_through(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(quiet=True)
    output.drain(notices("a"), Silent())
    output.say("for people")
    output.warn("mind this")
    output.result(TRAIN_RESULT, "a summary")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "mind this\n"


def test_a_stream_is_closed_whatever_happens(capsys: pytest.CaptureFixture[str]) -> None:
    closed = []

    def stream() -> Iterator[events.Notice]:
        try:
            for number in itertools.count():
                yield events.Notice(str(number))
        finally:
            closed.append(True)

    for _ in Output().show(stream(), Silent()):
        break
    else:
        raise AssertionError("it never ends")
    del _

    class Failing(Silent):
        def update(self, event: Any) -> None:
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        Output().drain(stream(), Failing())
    assert len(closed) == 2
    capsys.readouterr()


def test_with_a_terminal_there_is_a_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", terminal)
    output = Output()
    assert output.live
    assert not Output(dashboard=False).live
    assert not Output(quiet=True).live
    output.drain(notices("a"), Silent())
    assert "panel" in terminal.getvalue()
    assert "line [of] a" not in terminal.getvalue()


def test_results_are_json_all_the_way_down() -> None:
    document = to_json([TRAIN_RESULT, {"a": 1}, ("b", None)])
    assert json.loads(json.dumps(document)) == [vars(TRAIN_RESULT), {"a": 1}, ["b", None]]


def test_every_event_is_frozen() -> None:
    for kind in events.Event.__args__:  # type: ignore[attr-defined]
        assert kind.__dataclass_params__.frozen, kind
        assert fields(kind)
