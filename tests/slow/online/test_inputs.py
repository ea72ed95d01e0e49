"""Movements of the inputs, however images come."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from movements import moved_at, moving

from cifarctl.online.inputs import Movement


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5))
@settings(max_examples=10, deadline=None)
def test_movements_do_not_depend_on_how_images_come(sizes: list[int]) -> None:
    """But for the image at which they are told, which is the last of its part."""
    expected = [began for _, began in moved_at(Movement(), moving(), [25])]
    assert [began for _, began in moved_at(Movement(), moving(), sizes)] == expected


@given(st.integers(0, 690))
@settings(max_examples=10, deadline=None)
def test_a_monitor_of_movements_goes_on_from_a_dump(cut: int) -> None:
    pixels, whole, first, second = moving(), Movement(), Movement(), Movement()
    moved_at(whole, pixels[:cut], [10])
    moved_at(first, pixels[:cut], [10])
    second.load(first.dump())
    assert moved_at(second, pixels[cut:], [10]) == moved_at(whole, pixels[cut:], [10])
