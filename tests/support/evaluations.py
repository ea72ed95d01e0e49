"""Prequential evaluations."""

from __future__ import annotations

import json
from typing import Any

from helpers import Home, cifarctl

QUICK = tuple(f"--set=online.{value}" for value in ("update_every=60", "min_examples=30", "steps=20", "batch_size=32"))


def evaluate(home: Home, *words: str) -> Any:
    ran = cifarctl("eval", *words, "--json", *QUICK, *home.options)
    assert ran.exit_code == 0, ran.stderr
    return json.loads(ran.stdout)
