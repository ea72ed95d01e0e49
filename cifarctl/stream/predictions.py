"""The messages of the predictions topic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients
from cifarctl.stream.records import Decoded, Record
from cifarctl.stream.tail import Tail


@dataclass(frozen=True)
class Prediction:
    """One message of the predictions topic; times in epoch milliseconds; `class_name` is ``class`` there."""

    id: str
    label_predicted: int
    class_name: str
    confidence: float
    label: int | None
    correct: bool | None
    model_version: int
    model_sha256: str
    partition: int
    offset: int
    produced_at: int | None
    predicted_at: int


class PredictionEncoder:
    """Encodes the predictions of one model version."""

    def __init__(self, classes: Sequence[str], version: int, sha256: str) -> None:
        """`classes` are their names in order, `sha256` is the hash of the model file."""
        self._classes, self._version, self._sha256 = tuple(classes), version, sha256

    def __call__(
        self,
        batch: Decoded,
        predicted: npt.NDArray[np.int64],
        confidence: npt.NDArray[np.floating[Any]],
        predicted_at: int,
    ) -> list[bytes]:
        """The JSON of each prediction, in the order of `batch`.

        Args:
            batch: the images with their labels and records.
            predicted: (B,) most probable class.
            confidence: (B,) its probability, sent with six digits.
            predicted_at: epoch milliseconds.

        Raises:
            ValueError: a confidence is not finite, or the lengths differ.
        """
        if not np.isfinite(confidence).all():
            raise ValueError("a confidence is not finite")
        classes, version, sha256, dumps = self._classes, self._version, self._sha256, orjson.dumps
        return [
            dumps(
                {
                    "id": id,
                    "label_predicted": choice,
                    "class": classes[choice],
                    "confidence": certainty,
                    "label": label if label >= 0 else None,
                    "correct": label == choice if label >= 0 else None,
                    "model_version": version,
                    "model_sha256": sha256,
                    "source": {"partition": record.partition, "offset": record.offset},
                    "produced_at": record.timestamp_ms if record.timestamp_ms >= 0 else None,
                    "predicted_at": predicted_at,
                }
            )
            for record, id, label, choice, certainty in zip(
                batch.records,
                batch.ids,
                batch.labels.tolist(),
                predicted.tolist(),
                np.round(confidence.astype(np.float64), 6).tolist(),
                strict=True,
            )
        ]


def decode_prediction(value: bytes | None) -> Prediction:
    """Read one message of the predictions topic; unknown fields are ignored.

    Raises:
        ValueError: the bytes are not a prediction; names the field.
    """
    try:
        body = orjson.loads(value or b"")
    except ValueError as error:
        raise ValueError(f"prediction is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise ValueError(f"prediction is a JSON {type(body).__name__}, not an object")
    source = _field(body, "source", dict)
    produced = body.get("produced_at")
    prediction = Prediction(
        id=_field(body, "id", str),
        label_predicted=_field(body, "label_predicted", int),
        class_name=_field(body, "class", str),
        confidence=float(_field(body, "confidence", float, int)),
        label=_field(body, "label", int, type(None)),
        correct=_field(body, "correct", bool, type(None)),
        model_version=_field(body, "model_version", int),
        model_sha256=_field(body, "model_sha256", str),
        partition=_field(source, "partition", int),
        offset=_field(source, "offset", int),
        produced_at=None if produced is None else _field(body, "produced_at", int),
        predicted_at=_field(body, "predicted_at", int),
    )
    for name in ("label_predicted", "model_version"):
        if not 0 <= getattr(prediction, name) < 2**31:
            raise ValueError(f"prediction.{name} is {getattr(prediction, name)}")
    if not 0 <= prediction.confidence <= 1:
        raise ValueError(f"prediction.confidence is {prediction.confidence}, not 0 to 1")
    return prediction


def prediction_reader(settings: KafkaSettings, *, since_s: float) -> Tail[Prediction]:
    """A reader of the predictions topic, starting with those younger than `since_s` seconds; skips bad messages."""

    def decoded(records: Sequence[Record]) -> Iterator[Prediction]:
        for record in records:
            with suppress(ValueError):
                yield decode_prediction(record.value)

    return Tail(settings, clients.Topics.of(settings.topic_prefix).predictions, decoded, since_s)


def _field(body: Mapping[str, Any], name: str, *types: type) -> Any:
    """A field of one of `types`; a bool does not count as an integer."""
    if name not in body:
        raise ValueError(f"prediction has no {name}")
    value = body[name]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise ValueError(f"prediction.{name} is a {type(value).__name__}")
    return value
