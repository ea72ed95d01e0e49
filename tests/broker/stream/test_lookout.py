"""What is said at the start of a prefix to which nobody has written."""

from __future__ import annotations

from lookouts import found
from processes import Site

from cifarctl import events


def test_serve_says_that_nobody_has_ever_written_to_a_prefix(site: Site) -> None:
    """Once, and only where that is so; no error, and nothing waits for it."""
    serving = site.serve()
    serving.until(lambda: serving.of(events.Notice))
    site.send(3)
    serving.until(lambda: serving.of(events.BatchServed))
    serving.finish()
    told = [notice.message for notice in serving.of(events.Notice) if "nobody has ever written" in notice.message]
    assert told == [
        f"nobody has ever written to {site.topics.images}: unless its producer is still to come, check "
        "kafka.topic_prefix" + told[0].partition("kafka.topic_prefix")[2]
    ]
    assert found(site.kafka, 0) == []
