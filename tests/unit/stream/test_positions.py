"""Places that a group may begin at, as they are written."""

from __future__ import annotations

from datetime import datetime

import pytest

from cifarctl.errors import SettingsError
from cifarctl.stream.positions import Start


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("beginning", Start(word="beginning")),
        ("end", Start(word="end")),
        ("17", Start(offset=17)),
        ("0:5", Start(offsets={0: 5})),
        ("0:5,12:700", Start(offsets={0: 5, 12: 700})),
        ("2026-01-31T12:00:00+00:00", Start(time_ms=1_769_860_800_000)),
        ("2026-01-31", Start(time_ms=round(datetime(2026, 1, 31).timestamp() * 1000))),
    ],
)
def test_places_are_understood(text: str, start: Start) -> None:
    assert Start.parse(text) == start


@pytest.mark.parametrize(
    "text", ["", "start", "-1", "0:", "0:1,", "yesterday", "1.5", "0:-1", "offset:-1", "2h30m", "9" * 19]
)
def test_an_invalid_position_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"--from .*expected beginning, end, an offset"):
        Start.parse(text)


def test_a_partition_has_one_place() -> None:
    with pytest.raises(SettingsError, match="partition 0 is named twice"):
        Start.parse("0:1285,1:5,0:3")
