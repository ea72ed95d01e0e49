"""Committed offsets that are gone: why, and how to continue without moving any other partition."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import browse, identity


@dataclass(frozen=True)
class Gap:
    """A partition in which the group's next offset no longer exists, and the offsets that it has: [oldest, end)."""

    number: int
    offset: int
    oldest: int
    end: int
    anew: bool  # the topic is known to have been deleted and created again since

    @property
    def aged_out(self) -> bool:
        """Whether retention has removed the records that were to be read."""
        return self.offset < self.oldest and not self.anew


def find(settings: KafkaSettings, topic: str, group: str) -> list[Gap]:
    """All partitions of `topic` in which `group` cannot continue.

    Raises:
        BrokerError: no such topic, no permission, or no answer.
    """
    places = browse.places(settings, topic, group)
    topic_id = identity.topic_ids(settings, [topic]).get(topic)
    bounds = browse.bounds(settings, topic)
    found = []
    for number, place in sorted(places.items()):
        oldest, end = bounds[number]
        anew = place.mark.of_another(topic_id)
        if anew or not oldest <= place.offset <= end:
            found.append(Gap(number, place.offset, oldest, end, anew))
    return found


def error(settings: KafkaSettings, topic: str, group: str, seen: str) -> BrokerError:
    """The error about all offsets of `group` that are gone; `seen` is the one that was noticed.

    The remedy moves only those partitions, each to its oldest record: records of others would be answered again.

    Raises:
        BrokerError: no such topic, no permission, or no answer.
    """
    gaps = find(settings, topic, group)
    aged, anew = [gap for gap in gaps if gap.aged_out], [gap for gap in gaps if not gap.aged_out]
    stories = []
    if aged:
        stories.append(f"{_listed(aged)}: messages have aged out unread")
    if anew:
        stories.append(f"{_listed(anew)}: the topic was deleted and created again")
    if not gaps:  # it exists again
        return BrokerError(f"{seen}; start again")
    places = ",".join(f"{gap.number}:{gap.oldest}" for gap in gaps)
    retention = ", and raise the topic's retention.ms" if aged else ""
    return BrokerError(
        f"the group {group} cannot continue in {topic} at {'; at '.join(stories)}; to go on, run "
        f"`cifarctl serve --group {group} --from {places}`, which starts at the oldest record of these partitions and "
        f"leaves the others where they are{retention}"
    )


def _listed(gaps: Iterable[Gap]) -> str:
    """For example ``offset 77 of partition 0 (it has 100 to 120)``."""
    return ", ".join(
        f"offset {gap.offset} of partition {gap.number} (it has {gap.oldest} to {gap.end})" for gap in gaps
    )
