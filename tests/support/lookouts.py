"""What serve says at its start."""

from __future__ import annotations

from processes import until

from cifarctl.settings import KafkaSettings
from cifarctl.stream.topic_check import TopicCheck


def found(settings: KafkaSettings, count: int) -> list[str]:
    """What is said at the start, which must be so many sentences."""
    told: list[str] = []
    with TopicCheck(settings) as lookout:
        until(lambda: told.extend(lookout.news()) or len(told) >= count or lookout.done)
    assert len(told) == count
    return told
