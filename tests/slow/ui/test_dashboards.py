"""The serving dashboard, whatever happens."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from screens import CANARY_STARTED, LEARNING, ONLINE_STARTED, SERVE_STARTED, SERVING, play

from cifarctl.ui.serve import ServeView

streams = st.lists(st.sampled_from([*SERVING, *LEARNING, SERVE_STARTED, ONLINE_STARTED, CANARY_STARTED]), max_size=30)


@given(stream=streams, print_images=st.booleans())
@settings(max_examples=40)
def test_the_serving_dashboard_fits_whatever_happens(stream: list[Any], print_images: bool) -> None:
    play(ServeView(print_images=print_images), [SERVE_STARTED, *stream])
