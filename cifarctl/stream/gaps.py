"""Places of a group that are gone: what has become of them, and how to go on without moving any other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import browse, identity


@dataclass(frozen=True)
class Gap:
    """A partition where the group's next offset is not there any more, and what it holds: [oldest, end)."""

    number: int
    offset: int
    oldest: int
    end: int
    anew: bool  # the topic is known to be another one than that of the offset

    @property
    def aged_out(self) -> bool:
        """Whether it is retention that has removed what was to be read."""
        return self.offset < self.oldest and not self.anew


def find(settings: KafkaSettings, topic: str, group: str) -> list[Gap]:
    """All partitions of `topic` where `group` cannot go on.

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
    """What to tell about all places of `group` that are gone; `seen` is what led here.

    The remedy moves those partitions only, each to its oldest record: the others would be answered again.

    Raises:
        BrokerError: no such topic, no permission, or no answer.
    """
    gaps = find(settings, topic, group)
    aged, anew = [gap for gap in gaps if gap.aged_out], [gap for gap in gaps if not gap.aged_out]
    stories = []
    if aged:
        stories.append(f"{_listed(aged)}: messages have aged out unread")
    if anew:
        stories.append(f"{_listed(anew)}: the topic was deleted and made anew")
    if not gaps:  # it is there again
        return BrokerError(f"{seen}; start again")
    places = ",".join(f"{gap.number}:{gap.oldest}" for gap in gaps)
    retention = ", and raise the topic's retention.ms" if aged else ""
    return BrokerError(
        f"the group {group} cannot go on with {topic} at {'; at '.join(stories)}; decide with "
        f"`cifarctl serve --group {group} --from {places}`, which begins at the oldest record of these partitions and "
        f"leaves the others where they are{retention}"
    )


def _listed(gaps: Iterable[Gap]) -> str:
    """As in ``offset 77 of partition 0 (it holds 100 to 120)``."""
    return ", ".join(
        f"offset {gap.offset} of partition {gap.number} (it holds {gap.oldest} to {gap.end})" for gap in gaps
    )
