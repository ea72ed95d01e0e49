"""Notices at the start for a topic prefix that nobody has written to."""

from __future__ import annotations

from processes import Site
from topic_checks import found

from cifarctl import events


def test_serve_says_that_nobody_has_ever_written_to_a_prefix(site: Site) -> None:
    """Once, and only where that is so; no error, and nothing waits for it."""
    serving = site.serve()
    serving.until(lambda: serving.of(events.Notice))
    site.send(3)
    serving.until(lambda: serving.of(events.BatchServed))
    serving.finish()
    told = [notice.message for notice in serving.of(events.Notice) if "has never been written to" in notice.message]
    assert told == [
        f"{site.topics.images} has never been written to: unless its producer has yet to start, check "
        "kafka.topic_prefix" + told[0].partition("kafka.topic_prefix")[2]
    ]
    assert found(site.kafka, 0) == []
