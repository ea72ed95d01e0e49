"""Notices of serve at its start."""

from __future__ import annotations

from processes import until

from cifarctl.settings import KafkaSettings
from cifarctl.stream.topic_check import TopicCheck


def found(settings: KafkaSettings, count: int) -> list[str]:
    """The notices at the start, of which there must be `count`."""
    told: list[str] = []
    with TopicCheck(settings) as check:
        until(lambda: told.extend(check.news()) or len(told) >= count or check.done)
    assert len(told) == count
    return told
