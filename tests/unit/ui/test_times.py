"""Times as people write and read them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from screens import text_of

from cifarctl import times
from cifarctl.errors import SettingsError
from cifarctl.stream.positions import Start
from cifarctl.ui.tables import history_table, letters_table, versions_table
from cifarctl.ui.widgets import Log

NOON = 1_769_860_800_000  # 2026-01-31T12:00Z


@pytest.fixture(autouse=True)
def india(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A zone of five hours and a half, without summer time."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T17:30", NOON),
        ("2026-01-31 17:30:00", NOON),
        ("2026-01-31T12:00Z", NOON),
        ("2026-01-31t12:00:00z", NOON),
        ("20260131T120000Z", NOON),
        ("2026-01-31T14:00+02:00", NOON),
        ("2026-01-31T14:00+0200", NOON),
        ("2026-01-31T10:00-02", NOON),
        ("2026-01-31T12:00:00.250Z", NOON + 250),
        ("2026-01-31", NOON - 17_700_000 - 45_300_000),
        ("20260131", NOON - 17_700_000 - 45_300_000),
        ("1769860800", NOON),
        ("@1769860800", NOON),
        ("1769860800.5", NOON + 500),
        ("@1", 1000),
    ],
)
def test_a_time_is_local_unless_it_says_otherwise(text: str, moment: int) -> None:
    assert times.parse(text, "--since") == moment


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1.5h", 5400), ("1d", 86400)])
def test_a_while_ago(text: str, seconds: int) -> None:
    before = time.time()
    found = times.parse(text, "--from")
    assert before - 0.001 <= found / 1000 + seconds <= time.time() + 0.001
    start = Start.parse(text)
    assert start.time_ms is not None
    assert start.time_ms >= found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0001-01-01", "before 1970"),
        ("0001-01-01T00:00Z", "before 1970"),
        ("1969-12-31", "before 1970"),
        ("99999999h", "before 1970"),
        ("9" * 400 + "h", "there is no such time|before 1970"),
        ("10000-01-01", "expected 90s"),
        ("1769860800000", "epoch times are in seconds"),
        ("2026-02-30", "there is no such time"),
        ("20260230", "there is no such time"),
        ("20261331", "there is no such time"),
        ("2026", "ten digits; write @2026"),
        ("999999999.5", "ten digits"),
        ("17698608000", "in the future"),
        ("2026-01-31T25:00", "there is no such time"),
        ("2026-01-31T12:00+99:00", "there is no such time"),
        ("yesterday", "expected 90s"),
        ("nan", "expected 90s"),
        ("inf", "expected 90s"),
        ("-1", "expected 90s"),
        ("2026-W05", "expected 90s"),
        ("", "expected 90s"),
    ],
)
def test_an_invalid_time_is_refused_with_the_option(text: str, why: str) -> None:
    with pytest.raises(SettingsError, match=rf"(?s)^--since .*({why})"):
        times.parse(text, "--since")


def test_a_time_to_come_is_refused_but_for_clocks_that_differ() -> None:
    now = time.time()
    assert times.parse(f"@{now + 80_000:.0f}", "--since") > now * 1000
    with pytest.raises(SettingsError, match=r"^--from \d+-\S+: that is in the future, it is .* IST here"):
        Start.parse(f"{datetime.now().year + 2}-01-31")


@given(st.text(alphabet="0123456789-+:TZ.@smhd ", max_size=25))
def test_nothing_that_is_written_is_a_traceback(text: str) -> None:
    with suppress(SettingsError):
        assert 0 <= times.parse(text, "--since") < times.END_S * 1000


@pytest.mark.parametrize(
    ("text", "spellings"),
    [("20260131", ("2026-01-31", "offset:20260131")), ("1769860800", ("@1769860800", "offset:1769860800"))],
)
def test_a_number_that_may_be_a_time_is_not_an_offset(text: str, spellings: tuple[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        Start.parse(text)
    for spelling in spellings:
        assert spelling in str(caught.value)
    moment, offset = map(Start.parse, spellings)
    assert moment.time_ms == times.parse(text, "--since")
    assert offset == Start(offset=int(text))


@pytest.mark.parametrize("text", ["20260230", "20261301"])
def test_a_date_is_not_an_offset(text: str) -> None:
    with pytest.raises(SettingsError, match=f"no such date; write offset:{text}"):
        Start.parse(text)


def test_other_numbers_are_offsets() -> None:
    for text in ("0", "17", "12345678", "19691231", "21000101", "123456789", "123456789012"):
        assert Start.parse(text) == Start(offset=int(text))


def test_a_time_is_shown_local_with_its_zone_and_its_year_where_that_is_another() -> None:
    year = datetime.now().year
    assert times.display(f"{year}-03-01T12:00:05+00:00") == "03-01 17:30 IST"
    assert times.display(f"{year}-03-01T12:00:05+00:00", seconds=True) == "03-01 17:30:05 IST"
    assert times.display("2001-03-01T12:00:05.123Z") == "2001-03-01 17:30 IST"
    assert times.display(datetime(2001, 3, 1, 12, tzinfo=timezone.utc)) == "2001-03-01 17:30 IST"
    assert times.display(0.001) == "1970-01-01 05:30 IST"
    assert times.display("0001-01-01T00:00:00+00:00").startswith("0001-01-01 ")
    assert times.display("9999-12-31T23:59:59+00:00").startswith("9999-12-31 ")
    assert times.display(1e300) == "unknown"
    assert times.clock(0.0) == "05:30:00 IST"


def test_a_zone_without_a_name_is_its_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    assert times.display(0.0) == "1970-01-01 05:30 +05:30"


def test_tables_and_dashboards_show_times_so() -> None:
    from cifarctl.registry import Move

    row = {
        "partition": 0, "offset": 1, "id": "a", "class": "NotJson", "message": "m", "stage": "decode", "source": None,
        "size": 1, "digested": False, "replayed": False,
    }  # fmt: skip
    shown = " ".join(text_of(letters_table([row | {"time": "2001-03-01T12:00:05.123+00:00"}]), width=200))
    assert "2001-03-01 17:30:05 IST" in shown
    shown = " ".join(text_of(letters_table([row | {"time": None}]), width=200))
    assert "unknown" in shown
    assert " wn " not in shown
    move = Move(
        time="2001-03-01T12:00:05+00:00", alias="production", action="promote", from_version=1, to_version=2,
        who="cli", why="w", generation=2,
    )  # fmt: skip
    assert "2001-03-01 17:30 IST" in " ".join(text_of(history_table([move]), width=200))
    version = {"version": 1, "created": move.time, "model": "net", "parent": None, "metrics": {}, "aliases": []}
    assert "2001-03-01 17:30 IST" in " ".join(text_of(versions_table([version], Path("/r")), width=200))
    log = Log(1, now=lambda: 0.0)
    log.add("line")
    assert "05:30:00 IST  line" in text_of(log.render())[0]
