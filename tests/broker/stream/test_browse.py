"""Looking at topics of the embedded broker from outside any group."""

from __future__ import annotations

import pytest
from browsing import fill
from browsing_anywhere import (  # noqa: F401  (tests that run here too)
    test_a_reader_may_stop_early,
    test_a_topic_is_read_to_its_end_in_order,
    test_an_absent_topic_is_named_and_not_created,
    test_an_empty_topic_has_an_end,
    test_chosen_partitions_and_first_offsets,
    test_the_offsets_of_a_group_are_read_without_joining_it,
    test_the_record_at_a_place,
)

from cifarctl.settings import KafkaSettings
from cifarctl.stream import browse


@pytest.fixture(params=["kafka"])
def anywhere(request: pytest.FixtureRequest) -> KafkaSettings:
    settings: KafkaSettings = request.getfixturevalue(request.param)
    return settings


def test_the_embedded_broker_has_no_transactions_to_wait_for(kafka: KafkaSettings) -> None:
    browse.await_decided(kafka, fill(kafka, 30))
