"""Topics that are read side by side: what runs ahead is held back."""

from __future__ import annotations

from cifarctl.learning.pacing import AHEAD_MS, PartitionPacing
from cifarctl.stream.records import Record

IMAGES, LABELS = ("images", 0), ("labels", 0)
BOTH = {IMAGES, LABELS}


def batch(partition: tuple[str, int], *seconds: int) -> list[Record]:
    return [Record(*partition, 0, 1000 * second, None, None, ()) for second in seconds]


def test_what_runs_ahead_is_held_back_until_the_others_have_caught_up() -> None:
    pace = PartitionPacing()
    assert pace.after(batch(LABELS, 10, 50), BOTH, 0.4) == set()
    assert pace.after(batch(LABELS, 90), BOTH, 0.6) == {LABELS}
    assert pace.after(batch(IMAGES, 10), BOTH, 0.6) == {LABELS}
    assert pace.after(batch(IMAGES, 89), BOTH, 0.4) == {LABELS}
    assert pace.after(batch(IMAGES, 90), BOTH, 0.4) == set()
    assert pace.after(batch(IMAGES, 95), BOTH, 0.6) == {IMAGES}
    assert pace.after(batch(LABELS, 91), BOTH, 0.2) == set()


def test_partitions_of_one_topic_are_kept_together_too() -> None:
    pace, other = PartitionPacing(), ("images", 1)
    assigned = BOTH | {other}
    assert pace.after(batch(IMAGES, 50) + batch(LABELS, 50), assigned, 0.6) == BOTH
    assert pace.after(batch(other, 80), assigned, 0.6) == {other}


def test_a_partition_with_nothing_more_to_bring_is_not_waited_for() -> None:
    pace = PartitionPacing()
    assert pace.after(batch(IMAGES, 10), BOTH, 0.9) == {IMAGES}
    assert pace.after([], BOTH, 0.9) == set()
    assert pace.after(batch(IMAGES, 20), BOTH, 0.9) == set()
    assert pace.after(batch(LABELS, 5), BOTH, 0.9) == {IMAGES}  # but when it has again


def test_what_has_moved_on_is_not_waited_for() -> None:
    pace = PartitionPacing()
    assert pace.after(batch(IMAGES, 10), BOTH, 0.9) == {IMAGES}
    assert pace.after(batch(LABELS, 5), {IMAGES}, 0.9) == set()


def test_side_by_side_nothing_is_held_back() -> None:
    pace = PartitionPacing()
    (image,) = batch(IMAGES, 50)
    label = image._replace(topic="labels", timestamp_ms=image.timestamp_ms + AHEAD_MS)
    assert pace.after([image, label], BOTH, 0.9) == set()
    assert PartitionPacing().after([image._replace(timestamp_ms=-1)], BOTH, 0.9) == set()  # of unknown age
