"""The labels topic: ``{"id": str, "label": int}`` under the image's key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import orjson

from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients
from cifarctl.stream.fields import headers_unread, json_id, json_label, json_object, key_id
from cifarctl.stream.records import DeadLetter, Record, Refused
from cifarctl.stream.tail import Tail

STAGE = "label"


@dataclass(frozen=True)
class Labels:
    """The valid records of a batch, in the order they were read; `labels` (B,) int64."""

    ids: list[str]
    labels: npt.NDArray[np.int64]
    records: list[Record]

    def only(self, wanted: Callable[[str], bool]) -> Labels:
        """The labels whose ids are `wanted`."""
        places = [place for place, image_id in enumerate(self.ids) if wanted(image_id)]
        ids, records = [self.ids[place] for place in places], [self.records[place] for place in places]
        return Labels(ids, self.labels[places], records)


def encode_label(id: str, label: int) -> bytes:
    """The value of one message; its key is the id."""
    return orjson.dumps({"id": id, "label": label})


def decode(records: Sequence[Record], *, classes: int) -> tuple[Labels, list[DeadLetter]]:
    """Sort a batch into labels and dead letters, each record into exactly one of them, both in reading order.

    Args:
        records: as read, with any bytes.
        classes: labels are 0 to `classes` - 1.
    """
    ids: list[str] = []
    labels: list[int] = []
    good: list[Record] = []
    letters: list[DeadLetter] = []
    for record in records:
        try:
            id, label = _parse(record, classes)
        except Refused as error:
            letters.append(DeadLetter(record, STAGE, error.error, error.message))
            continue
        ids.append(id)
        labels.append(label)
        good.append(record)
    return Labels(ids, np.array(labels, dtype=np.int64), good), letters


def label_reader(settings: KafkaSettings, *, classes: int, wait_s: float) -> Tail[tuple[str, int]]:
    """A reader of the (id, label) pairs of the labels topic, starting with those younger than `wait_s` seconds.

    Labels are 0 to `classes` - 1. Bad records are ignored here: the learner reports them.
    """

    def pairs(records: Sequence[Record]) -> Iterator[tuple[str, int]]:
        found, _ = decode(records, classes=classes)
        return zip(found.ids, found.labels.tolist(), strict=True)

    return Tail(settings, clients.Topics.of(settings.topic_prefix).labels, pairs, wait_s)


def _parse(record: Record, classes: int) -> tuple[str, int]:
    if record.unread:
        raise headers_unread()
    if record.value is None:
        raise Refused("NullValue", "the message has no value; a label needs one")
    body = json_object(record.value, "id and label")
    if (label := body.get("label")) is None:
        raise Refused("MissingLabel", "the JSON has no label")
    return _id(record, body.get("id")), json_label(label, classes)


def _id(record: Record, value: object) -> str:
    """The id of the body, else the key."""
    if value not in (None, ""):
        return json_id(value)
    if not record.key:
        raise Refused("MissingId", "neither the JSON nor the key has the id of the image")
    return key_id(record.key)
