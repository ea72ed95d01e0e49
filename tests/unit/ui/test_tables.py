"""Summaries and tables."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from screens import CLASSES, LONG, MARKUP, REJECTED, TRAIN_RESULT, WIDTH, text_of

from cifarctl import events
from cifarctl.ui.demo import demo_summary
from cifarctl.ui.learn import outcome
from cifarctl.ui.produce import produce_summary
from cifarctl.ui.serve import serve_summary
from cifarctl.ui.tables import (
    checks_table,
    config_table,
    evaluation,
    history_table,
    manifest_table,
    removed_table,
    verify_table,
    versions_table,
)
from cifarctl.ui.train import train_summary
from cifarctl.ui.verify import verify_summary

# --- summaries


def test_summaries() -> None:
    latency = {"p50": 1.5, "p95": 3.0, "p99": 12.345, "p999": None}
    serve = events.ServeResult(100, 2, 90, 0.7, 10.0, 10.2, latency, [7, 8], 1, [])
    text = serve_summary(serve)
    for part in ("100 images in 00:10", "2 dead letters", "70.0 % over 90", "versions 7, 8, 1 swaps", "p50 1.5 ms"):
        assert part in text
    online = events.OnlineServeResult(
        **vars(serve), buffer={"size": 1, "capacity": 2}, retrains=5, promotions=2, rollbacks=1
    )
    assert "5 updates, 2 promoted, 1 rolled back" in serve_summary(online)
    nothing = events.ServeResult(0, 0, 0, None, 0.0, 0.0, dict.fromkeys(latency), [7], 0, [])
    assert "accuracy – over 0" in serve_summary(nothing)
    assert "sent 10 messages in 00:05 (2.00 messages/s), 1 failed" in produce_summary(
        events.ProduceResult(10, 1, 5.0, 2.0)
    )
    assert "; 8 delayed labels sent, 2 failed" in produce_summary(events.ProduceResult(10, 0, 5.0, 2.0, 8, 2))
    assert "; 8 delayed labels sent, 1 failed" in produce_summary(events.ProduceResult(10, 0, 5.0, 2.0, 8, 1))
    assert train_summary(TRAIN_RESULT) == (
        "version 3: validation accuracy 76.5 %, test accuracy 77.1 % after 10 epochs in 05:21; "
        "promoted to production (better)"
    )
    averaged = replace(TRAIN_RESULT, validation_accuracy_tta=0.78, test_accuracy_tta=0.785)
    assert "validation accuracy 76.5 % (78.0 % with TTA), test accuracy 77.1 % (78.5 % with TTA)" in (
        train_summary(averaged)
    )
    assert "not promoted (worse)" in train_summary(
        replace(TRAIN_RESULT, promoted=False, reason="worse", validation_accuracy=None)
    )
    faults: dict[str, Any] = {"missing": 0, "duplicated": 0, "beyond": 0, "out_of_order": 0}
    verified = events.VerifyResult("t.images", "g", {"0": 12}, 12, 11, 1, **faults, exact=True, examples=[])
    assert verify_summary(verified) == (
        "12 inputs of t.images committed by g: 11 predictions and 1 dead letters; each exactly once, in order"
    )
    assert "NOT each exactly once" in verify_summary(replace(verified, missing=1, exact=False))
    assert outcome(REJECTED) == "rejected: 40.0% against 41.0% held out; validation accuracy 50.0%"
    demo = events.DemoResult(
        "synthetic", 6500, "invert", 0.7, 0.2, 0.6, 0.1, 12, 2, [1, 2, 3], latency, 200.0, "r/demo"
    )
    text = demo_summary(demo)
    for part in ("70.0 %", "20.0 %", "60.0 %", "10.0 %", "12 / 2", "1 → 2 → 3", "r/demo", "cifarctl serve --online"):
        assert part in text


# --- tables


def test_versions_fit_a_terminal_without_losing_a_letter() -> None:
    shown = text_of(
        versions_table(
            [
                {
                    "version": 123456,
                    "created": "2001-01-01T12:34:56.789",
                    "model": "net",
                    "parent": 123455,
                    "metrics": {"validation_accuracy": 0.7654, "test_accuracy": None},
                    "aliases": ["production"],
                }
            ],
            Path("/r"),
        )
    )
    text = "\n".join(shown)
    assert max(map(len, shown)) <= WIDTH
    for part in ("version", "model", "validation", "production", "123456", "2001-01-01 12:34 ", "76.5 %", "–"):
        assert part in text


def test_the_evaluation_fits_a_terminal() -> None:
    confusion = [[1000 if row == column else 999 for column in range(10)] for row in range(10)]
    result = events.EvaluateResult(7, 0.7654, 0.8, 0.05, dict.fromkeys(CLASSES, 0.5) | {"cat": None}, confusion)
    shown = text_of(evaluation(result))
    assert max(map(len, shown)) <= WIDTH
    text = "\n".join(shown)
    for part in ("version 7: accuracy 76.5 %", "automobile", "1000", "999", "–"):
        assert part in text


def test_tables_of_nothing() -> None:
    assert "cifarctl train" in str(versions_table([], Path("/r")))
    assert "no alias has been moved" in str(history_table([]))
    assert removed_table([], dry_run=False) == "nothing to remove"
    assert verify_table([], Path("/r")) == "the registry in /r is empty"


def test_tables_show_their_rows() -> None:
    from cifarctl.registry import Move
    from cifarctl.settings import explain

    move = {
        "time": "2026-01-01T00:00:00+00:00", "alias": "production", "from_version": 3, "to_version": 3,
        "who": "learner", "why": MARKUP, "generation": 2,
    }  # fmt: skip
    text = "\n".join(text_of(history_table([Move(action="reject", **move), Move(action="promote", **move)])))
    for part in ("reject", "3 → 3", "learner", "[bold]not"):
        assert part in text
    rows = [{"version": 1, "problem": None}, {"version": 2, "problem": "sha256 differs [red]"}]
    text = "\n".join(text_of(verify_table(rows, Path("/r"))))
    assert "ok" in text
    assert "sha256 differs [red]" in text
    checks = [{"check": "broker", "ok": False, "finding": LONG}, {"check": "data", "ok": True, "finding": "fine"}]
    shown = text_of(checks_table(checks))
    assert max(map(len, shown)) <= WIDTH
    assert "FAIL" in "\n".join(shown)
    removed = [{"version": 3, "path": "registry/versions/000003", "reason": "old", "bytes": 1234}]
    assert "would be removed" in "\n".join(text_of(removed_table(removed, dry_run=True)))
    text = "\n".join(text_of(config_table(explain({"train.epochs": "3"})), width=200))
    assert re.search(r"train\.epochs +3 +option", text)
    folder, manifest = Path("r/3"), {"version": 3, "canary": [1], "model": "net"}
    text = "\n".join(text_of(manifest_table(manifest, folder, [folder / "plots" / "confusion.png"]), width=200))
    assert "canary" not in text
    assert re.search(r"model +net", text)
    assert re.search(r"plots +plots/confusion\.png", text)
