"""Images as `produce` sends them."""

from __future__ import annotations

from processes import CLASSES

from cifarctl.data import Course, Images, Scenario
from cifarctl.stream import codecs
from cifarctl.stream.records import Decoded, Record

HALVES = (0.5, 0.5, 0.5)


def streamed(images: Images, start: int, size: int, scenario: Scenario, seed: int) -> Images:
    """What goes over the wire."""
    passage = Course(images, scenario, seed, CLASSES).take(start, size)
    return Images(passage.pixels, passage.concept)


def decoded(records: list[Record]) -> Decoded:
    """The images in the order in which they were sent."""
    in_order = sorted(records, key=lambda record: dict(record.headers)["id"] or b"")
    batch, letters = codecs.decode(in_order, classes=10, json_mean=HALVES, json_std=HALVES)
    assert not letters
    return batch
