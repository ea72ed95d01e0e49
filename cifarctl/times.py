"""Times as people write and read them: the local zone unless they say otherwise, and always shown with their zone."""

from __future__ import annotations

import re
import time
from datetime import date, datetime, timedelta, timezone

from cifarctl.errors import SettingsError

FORMS = "90s, 30m, 2h, 1d, or a time such as 2026-01-31T12:00 (local; Z or +02:00 for another zone) or epoch seconds"
DAY_S = 86400
LEAST_BARE_S = 1_000_000_000  # ten digits; a smaller number is rather a slip of the pen in a date
END_S = 253_402_300_800  # the year 10000, which no date can name
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": DAY_S}

_AGO = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd])")
_EPOCH = re.compile(r"(@?)([0-9]+(?:\.[0-9]+)?)")
# `datetime.fromisoformat` takes no Z and no basic form before Python 3.11.
_ISO = re.compile(
    r"([0-9]{4})(-?)([0-9]{2})\2([0-9]{2})"
    r"(?:[Tt ]([0-9]{2})(?::?([0-9]{2})(?::?([0-9]{2})(?:[.,]([0-9]{1,9}))?)?)?"
    r"([Zz]|[+-][0-9]{2}(?::?[0-9]{2})?)?)?"
)


def parse(text: str, option: str, forms: str = FORMS) -> int:
    """The moment that a person means, in epoch milliseconds.

    A while ago (``90s``, ``30m``, ``2h``, ``1d``), ISO 8601 (a date is its midnight; without a zone the local one), or
    epoch seconds: ten digits, or any number behind an ``@``. Eight digits are a date.

    Args:
        text: the option's value as written.
        option: the option that it was written for, as ``--since``.
        forms: the accepted forms, for errors.

    Raises:
        SettingsError: the text has none of the forms, or names a time before 1970 or more than a day ahead of this
            machine's clock.
    """
    try:
        if (ago := _AGO.fullmatch(text)) is not None:
            seconds = time.time() - float(ago[1]) * SECONDS[ago[2]]
        elif (iso := _ISO.fullmatch(text)) is not None:
            seconds = _moment(iso).timestamp() if int(iso[1]) >= 1969 else -1.0  # years that no system converts
        elif (epoch := _EPOCH.fullmatch(text)) is not None:
            seconds = float(epoch[2])
            if not epoch[1] and seconds < LEAST_BARE_S:
                raise SettingsError(f"{option} {text}: epoch seconds have ten digits; write @{text}, or {forms}")
        else:
            raise SettingsError(f"{option} {text}: expected {forms}")
    except (ValueError, OverflowError, OSError) as error:  # the last two: the C library cannot convert it
        raise SettingsError(f"{option} {text}: there is no such time ({error}); expected {forms}") from None
    if seconds < 0:
        raise SettingsError(f"{option} {text}: that is before 1970, where the times of Kafka begin; take a later one")
    if seconds >= END_S:
        raise SettingsError(f"{option} {text}: that is after the year 9999; epoch times are in seconds")
    if seconds > (now := time.time()) + DAY_S:
        raise SettingsError(f"{option} {text}: that is in the future, it is {display(now)} here; take an earlier time")
    return round(seconds * 1000)


def is_date(text: str) -> bool:
    """Whether eight digits are a date, as 20260131 is, between 1970 and 2099."""
    if not re.fullmatch("[0-9]{8}", text) or not 1970 <= int(text[:4]) <= 2099:
        return False
    try:
        date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return False
    return True


def is_epoch(text: str) -> bool:
    """Whether a number has the ten digits that epoch seconds have from 2001 to 2286."""
    return re.fullmatch("[1-9][0-9]{9}", text) is not None


def display(moment: datetime | float | str, *, seconds: bool = False) -> str:
    """A moment for people: local, with its zone, and with its year where that is not this one.

    ``01-31 12:00 CET``; ``2025-01-31 12:00 CET``; with `seconds` ``01-31 12:00:05 CET``.

    Args:
        moment: a time with its zone, epoch seconds, or ISO 8601 as in the files of the registry.
        seconds: whether to show them.
    """
    try:
        local = _local(moment)
    except (ValueError, OverflowError, OSError):  # no time at all, or none that a date can name
        return moment if isinstance(moment, str) else "unknown"
    year = "" if local.year == datetime.now().astimezone().year else f"{local.year:04}-"
    clock = local.strftime("%m-%d %H:%M:%S" if seconds else "%m-%d %H:%M")
    return f"{year}{clock} {zone(local)}"


def clock(seconds: float) -> str:
    """The time of day at `seconds` of the epoch: ``12:00:05 CET``."""
    local = datetime.fromtimestamp(seconds, timezone.utc).astimezone()
    return f"{local:%H:%M:%S} {zone(local)}"


def zone(local: datetime) -> str:
    """The name of a zone, or its offset where it has none."""
    name = local.tzname() or ""
    offset = local.strftime("%z")
    return name if name.isalpha() else f"{offset[:3]}:{offset[3:5]}"


def _local(moment: datetime | float | str) -> datetime:
    if isinstance(moment, str):
        found = _ISO.fullmatch(moment)
        if found is None:
            raise ValueError(moment)
        aware = _moment(found)
    elif isinstance(moment, datetime):
        aware = moment
    else:
        aware = datetime.fromtimestamp(moment, timezone.utc)
    try:
        return aware.astimezone()
    except (ValueError, OverflowError, OSError):  # within a day of the years 1 and 10000
        return aware if aware.tzinfo else aware.replace(tzinfo=timezone.utc)


def _moment(iso: re.Match[str]) -> datetime:
    year, _, month, day, hour, minute, second, fraction, said = iso.groups()
    micro = int((fraction or "0")[:6].ljust(6, "0"))
    naive = datetime(int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), micro)
    if said is None:
        return naive.astimezone()  # of ours: without a zone
    if said in "Zz":
        return naive.replace(tzinfo=timezone.utc)
    digits = said[1:].replace(":", "").ljust(4, "0")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return naive.replace(tzinfo=timezone(-offset if said[0] == "-" else offset))
