"""`dead-letters`: what cannot be meant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers import cifarctl

from cifarctl.stream import letters


def test_every_class_of_error_is_known() -> None:
    package = Path(letters.__file__).parent.parent
    text = "".join(path.read_text() for path in package.rglob("*.py"))
    written = re.findall(r'(?:Refused\(|DeadLetter\(\w+, "?\w+"?,)\s*"(\w+)"', text)
    assert set(written) == letters.CLASSES


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["replay"], "--all"),
        (["replay", "--all", "--class", "NotJson"], "--all"),
        (["replay", "--at", "seven"], "PARTITION:OFFSET"),
        (["replay", "--at", "1:-2"], "PARTITION:OFFSET"),
        (["list", "--since", "yesterday"], "--since yesterday"),
    ],
)
def test_what_cannot_be_meant(arguments: list[str], named: str) -> None:
    result = cifarctl("dead-letters", *arguments)
    assert result.exit_code == 2
    assert named in result.stderr
