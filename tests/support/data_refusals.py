"""What is said of data that cannot be used."""

from __future__ import annotations

import pytest

from cifarctl.data import load
from cifarctl.errors import DataError
from cifarctl.settings import DataSettings

SHARES = (0.7, 0.1, 0.2)


def message(settings: DataSettings) -> str:
    """The one line of the DataError that loading must raise."""
    with pytest.raises(DataError) as caught:
        load(settings)
    text = str(caught.value)
    assert "\n" not in text
    return text
