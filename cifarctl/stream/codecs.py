"""What the bytes on the topics mean: pure functions between Kafka records and numpy arrays.

Images travel as ``raw`` (3,072 bytes uint8 CHW) or as ``json`` (the tutorial's base64 of normalised float32
CHW). A batch is decoded at once: the checks of a record are a few comparisons, the pixels of the whole batch
are one buffer and one pass of arithmetic. Whatever is wrong with a record becomes a `DeadLetter`, not an
exception.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

RAW = "application/x-cifar-raw"
JSON = "application/json"
CONTENT_TYPES: Mapping[str, str] = {"raw": RAW, "json": JSON}

SHAPE = (3, 32, 32)
RAW_BYTES = 3 * 32 * 32
FLOAT_BYTES = 4 * RAW_BYTES
MAX_ID_BYTES = 1024
#: How far outside 0-1 a pixel may lie after un-normalising: a producer's rounding, not another normalisation.
PIXEL_TOLERANCE = 0.01
UNLABELLED = -1

#: Brokers refuse messages beyond 1 MiB by default; a dead letter larger than this travels as a digest.
MAX_DEAD_LETTER_BYTES = 900_000
DIGEST_HEAD_BYTES = 4096
MAX_MESSAGE_CHARACTERS = 500

_IMAGE_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_DECIMAL = re.compile(rb"-?[0-9]{1,18}")

Headers: TypeAlias = list[tuple[str, bytes | None]]
Pixels: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Record:
    """A consumed message; `timestamp_ms` is epoch milliseconds, -1 where the broker knows none."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True)
class Decoded:
    """The good records of a batch, in the order they were read.

    pixels (B, 3, 32, 32) uint8, writable and contiguous; labels (B,) int64, -1 = unlabelled.
    """

    pixels: Pixels
    labels: npt.NDArray[np.int64]
    ids: list[str]
    records: list[Record]


@dataclass(frozen=True)
class DeadLetter:
    """A record that no model may see: where it failed, the class of the failure and what to tell a person."""

    record: Record
    stage: str
    error: str
    message: str


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


class _RecordError(Exception):
    """Why a record cannot be used; becomes a `DeadLetter`."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error
        self.message = message


def encode_raw(pixels: Pixels) -> bytes:
    """The 3,072 bytes of one image, (3, 32, 32) uint8.

    Raises:
        ValueError: another shape or type.
    """
    return _checked(pixels).tobytes()


def encode_json(pixels: Pixels, label: int | None, id: str, mean: Sequence[float], std: Sequence[float]) -> bytes:
    """The tutorial's message: base64 of the float32 CHW image, normalised by `mean` and `std` per channel.

    Args:
        pixels: (3, 32, 32) uint8.
        label: class number; None is sent as null and means unlabelled.
        id: image id.
        mean: three numbers on the 0-1 scale.
        std: three numbers on the 0-1 scale, greater than 0.

    Raises:
        ValueError: another shape or type of `pixels`.
    """
    scaled = _checked(pixels).astype(np.float32) / np.float32(255)
    normalised = (scaled - _channels(mean)) / _channels(std)
    image = base64.b64encode(normalised.astype("<f4").tobytes()).decode("ascii")
    return json.dumps({"image": image, "label": label, "id": id}).encode()


def headers_for(format: str, id: str, label: int | None) -> list[tuple[str, bytes]]:
    """Headers of an image message; JSON carries its label in the body.

    Raises:
        ValueError: `format` is neither raw nor json.
    """
    if format not in CONTENT_TYPES:
        raise ValueError(f"format {format!r}: expected one of {', '.join(CONTENT_TYPES)}")
    headers = [("content-type", CONTENT_TYPES[format].encode()), ("id", id.encode())]
    if label is not None and format != "json":
        headers.append(("label", str(label).encode()))
    return headers


def decode(
    records: Sequence[Record], *, classes: int, json_mean: Sequence[float], json_std: Sequence[float]
) -> tuple[Decoded, list[DeadLetter]]:
    """Sort a batch into images and dead letters: each record into exactly one of them, both in reading order.

    Args:
        records: what was read, any bytes.
        classes: labels are 0 to `classes` - 1.
        json_mean: the mean that producers of JSON subtracted, per channel.
        json_std: the deviation that they divided by, per channel.
    """
    parsed: list[_Parsed | DeadLetter] = [_parse(record, classes) for record in records]
    floats = [item for item in parsed if isinstance(item, _Parsed) and item.normalised]
    restored = _unnormalise([item.payload for item in floats], json_mean, json_std)
    images = iter(restored)

    payloads: list[bytes] = []
    good: list[_Parsed] = []
    letters: list[DeadLetter] = []
    for item in parsed:
        if isinstance(item, DeadLetter):
            letters.append(item)
            continue
        payload = next(images) if item.normalised else item.payload
        if isinstance(payload, _RecordError):
            letters.append(_letter(item.record, payload))
        else:
            payloads.append(payload)
            good.append(item)
    # A bytearray, because torch warns about tensors over memory that cannot be written.
    pixels = np.frombuffer(bytearray().join(payloads), dtype=np.uint8).reshape(-1, *SHAPE)
    labels = np.array([item.label for item in good], dtype=np.int64)
    return Decoded(pixels, labels, [item.id for item in good], [item.record for item in good]), letters


def encode_prediction(
    *,
    id: str,
    label_predicted: int,
    class_name: str,
    confidence: float,
    label: int | None,
    model_version: int,
    model_sha256: str,
    partition: int,
    offset: int,
    produced_at: int | None,
    predicted_at: int,
) -> bytes:
    """The JSON of one prediction.

    Args:
        id: image id.
        label_predicted: most probable class.
        class_name: its name.
        confidence: its probability, sent with six digits.
        label: true class; None or -1 when it is not known, and ``correct`` is then null.
        model_version: version in the registry.
        model_sha256: hash of the model file.
        partition: where the image was read.
        offset: where the image was read.
        produced_at: the image's timestamp, epoch milliseconds; None or -1 when unknown.
        predicted_at: epoch milliseconds.

    Raises:
        ValueError: the confidence is not finite.
    """
    known = label is not None and label >= 0
    body = {
        "id": id,
        "label_predicted": int(label_predicted),
        "class": class_name,
        "confidence": round(float(confidence), 6),
        "label": int(label) if label is not None and known else None,
        "correct": bool(label_predicted == label) if known else None,
        "model_version": int(model_version),
        "model_sha256": model_sha256,
        "source": {"partition": int(partition), "offset": int(offset)},
        "produced_at": int(produced_at) if produced_at is not None and produced_at >= 0 else None,
        "predicted_at": int(predicted_at),
    }
    return json.dumps(body, allow_nan=False).encode()


def decode_prediction(value: bytes | None) -> Prediction:
    """Read one message of the predictions topic; fields it does not know are passed over.

    Raises:
        ValueError: the bytes are not such a message; the message names the field.
    """
    try:
        body = json.loads(value or b"")
    except (ValueError, RecursionError) as error:
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
    if not (math.isfinite(prediction.confidence) and 0 <= prediction.confidence <= 1):
        raise ValueError(f"prediction.confidence is {prediction.confidence}, not 0 to 1")
    return prediction


def dead_letter_headers(letter: DeadLetter) -> Headers:
    """The original headers, then why and where from."""
    return [*letter.record.headers, *_reasons(letter)]


def dead_letter_message(letter: DeadLetter) -> tuple[bytes | None, bytes | None, Headers]:
    """Key, value and headers to send to the dead letters.

    The original bytes; a message near the broker's size limit would be refused for its added headers, so that
    one travels as a JSON digest: its size, its SHA-256, its first kilobytes and where the original lies.
    """
    record, headers = letter.record, dead_letter_headers(letter)
    key, value = record.key, record.value
    size = len(key or b"") + len(value or b"") + sum(len(name) + len(text or b"") for name, text in headers)
    if size <= MAX_DEAD_LETTER_BYTES:
        return key, value, headers
    body = value or b""
    digest = {
        "size": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
        "head": base64.b64encode(body[:DIGEST_HEAD_BYTES]).decode("ascii"),
        "source": {"topic": record.topic, "partition": record.partition, "offset": record.offset},
    }
    short = key if key is None or len(key) <= MAX_ID_BYTES else None
    return short, json.dumps(digest).encode(), _reasons(letter)


@dataclass(frozen=True)
class _Parsed:
    """A record whose form is right; the numbers of a normalised payload are yet to be checked."""

    record: Record
    id: str
    label: int
    payload: bytes
    normalised: bool


def _parse(record: Record, classes: int) -> _Parsed | DeadLetter:
    try:
        headers = dict(record.headers)
        if record.value is None:
            raise _RecordError("NullValue", "the message has no value; an image needs one")
        if _content_type(headers.get("content-type"), record.value) == RAW:
            return _parse_raw(record, record.value, headers, classes)
        return _parse_json(record, record.value, headers, classes)
    except _RecordError as error:
        return _letter(record, error)


def _content_type(header: bytes | None, value: bytes) -> str:
    if header == b"application/x-cifar-raw":  # the usual one first
        return RAW
    if header:
        name = header.partition(b";")[0].strip().lower().decode("utf-8", "replace")
        if name not in CONTENT_TYPES.values():
            raise _RecordError("UnsupportedContentType", f"content-type {name[:100]!r}: expected {RAW} or {JSON}")
        return name
    if value.startswith(_IMAGE_MAGIC):
        raise _RecordError("UnsupportedContentType", f"the message is a PNG or JPEG: expected {RAW} or {JSON}")
    return RAW if len(value) == RAW_BYTES else JSON


def _parse_raw(record: Record, value: bytes, headers: Mapping[str, bytes | None], classes: int) -> _Parsed:
    if len(value) != RAW_BYTES:
        raise _RecordError("WrongLength", f"a raw image has {len(value)} bytes, not {RAW_BYTES}")
    return _Parsed(record, _header_id(record, headers), _header_label(headers, classes), value, normalised=False)


def _parse_json(record: Record, value: bytes, headers: Mapping[str, bytes | None], classes: int) -> _Parsed:
    try:
        body = json.loads(value)
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested without end
        raise _RecordError("NotJson", f"{len(value)} bytes that are neither a raw image nor JSON: {error}") from None
    if not isinstance(body, dict):
        raise _RecordError("NotAnObject", f"the JSON is a {type(body).__name__}, not an object with image, label, id")
    payload = _json_image(body)
    label, id = body.get("label"), body.get("id")
    return _Parsed(
        record,
        _header_id(record, headers) if id in (None, "") else _json_id(id),
        _header_label(headers, classes) if label is None else _json_label(label, classes),
        payload,
        normalised=True,
    )


def _json_image(body: Mapping[str, Any]) -> bytes:
    image = body.get("image")
    if image is None:
        raise _RecordError("MissingImage", "the JSON has no image")
    if not isinstance(image, str):
        raise _RecordError("ImageNotText", f"image is a {type(image).__name__}, not a base64 string")
    try:
        payload = base64.b64decode(image, validate=True)
    except ValueError as error:
        raise _RecordError("BadBase64", f"image is not base64: {error}") from None
    if len(payload) != FLOAT_BYTES:
        raise _RecordError("WrongLength", f"image has {len(payload)} bytes, not {FLOAT_BYTES} (float32, 3 x 32 x 32)")
    return payload


def _json_id(id: object) -> str:
    if isinstance(id, bool) or not isinstance(id, str | int):
        raise _RecordError("IdNotText", f"id is a {type(id).__name__}, not a string")
    text = str(id)
    try:
        return _short(text, len(text.encode()))
    except UnicodeEncodeError:
        raise _RecordError("IdNotText", "id holds half a surrogate pair, which no UTF-8 text can") from None


def _json_label(label: object, classes: int) -> int:
    if isinstance(label, bool) or not isinstance(label, int):
        raise _RecordError("LabelNotInteger", f"label is a {type(label).__name__}, not an integer")
    return _in_range(label, classes)


def _header_id(record: Record, headers: Mapping[str, bytes | None]) -> str:
    """The id of the header, else the key, else where the record lies."""
    header = headers.get("id")
    if header:
        try:
            return _short(header.decode(), len(header))
        except UnicodeDecodeError:
            raise _RecordError("IdNotText", "the id header is not UTF-8") from None
    if record.key:
        return _short(record.key.decode("utf-8", "replace"), len(record.key))
    return f"{record.topic}-{record.partition}-{record.offset}"


def _header_label(headers: Mapping[str, bytes | None], classes: int) -> int:
    header = headers.get("label")
    if header is None:
        return UNLABELLED
    if not _DECIMAL.fullmatch(header):
        raise _RecordError("LabelNotInteger", f"the label header is {header[:40]!r}, not decimal text")
    return _in_range(int(header), classes)


def _short(id: str, size: int) -> str:
    if size > MAX_ID_BYTES:
        raise _RecordError("IdTooLong", f"the id has {size} bytes; at most {MAX_ID_BYTES} are allowed")
    return id


def _in_range(label: int, classes: int) -> int:
    if not 0 <= label < classes:
        shown = label if abs(label) < 10**18 else "a number of many digits"
        raise _RecordError("LabelOutOfRange", f"label is {shown}; the classes are 0 to {classes - 1}")
    return label


def _unnormalise(payloads: Sequence[bytes], mean: Sequence[float], std: Sequence[float]) -> list[bytes | _RecordError]:
    """float32 CHW payloads to uint8 ones, in one pass over all of them."""
    values = np.frombuffer(b"".join(payloads), dtype="<f4").reshape(-1, *SHAPE)
    with np.errstate(all="ignore"):  # hostile numbers overflow; the range check below catches what comes out
        scaled = values * _channels(std) + _channels(mean)
        low, high = scaled.min(axis=(1, 2, 3)), scaled.max(axis=(1, 2, 3))
        fine = (low >= -PIXEL_TOLERANCE) & (high <= 1 + PIXEL_TOLERANCE)  # NaN compares false
        scaled *= np.float32(255)
        np.clip(scaled, 0, 255, out=scaled)
        pixels = np.rint(scaled, out=scaled).astype(np.uint8)
    return [
        pixels[row].tobytes() if fine[row] else _pixel_error(values[row], float(low[row]), float(high[row]))
        for row in range(len(payloads))
    ]


def _pixel_error(values: npt.NDArray[np.float32], low: float, high: float) -> _RecordError:
    if not np.isfinite(values).all():
        return _RecordError("PixelsNotFinite", "image holds NaN or infinite values")
    return _RecordError(
        "PixelsOutOfRange",
        f"pixels reach from {low:.3g} to {high:.3g} after un-normalising, not 0 to 1: "
        "set serve.json_mean and serve.json_std to what the producer normalised with",
    )


def _letter(record: Record, error: _RecordError) -> DeadLetter:
    return DeadLetter(record, "decode", error.error, error.message)


def _reasons(letter: DeadLetter) -> Headers:
    record = letter.record
    return [
        ("cifarctl.error.class", letter.error.encode("utf-8", "replace")),
        ("cifarctl.error.message", letter.message[:MAX_MESSAGE_CHARACTERS].encode("utf-8", "replace")),
        ("cifarctl.error.stage", letter.stage.encode()),
        ("cifarctl.source.topic", record.topic.encode()),
        ("cifarctl.source.partition", str(record.partition).encode()),
        ("cifarctl.source.offset", str(record.offset).encode()),
    ]


def _field(body: Mapping[str, Any], name: str, *types: type) -> Any:
    """A field of one of `types`, where a bool is no integer."""
    if name not in body:
        raise ValueError(f"prediction has no {name}")
    value = body[name]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise ValueError(f"prediction.{name} is a {type(value).__name__}")
    return value


def _channels(values: Sequence[float]) -> npt.NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32).reshape(3, 1, 1)


def _checked(pixels: Pixels) -> Pixels:
    if pixels.shape != SHAPE or pixels.dtype != np.uint8:
        raise ValueError(f"an image is (3, 32, 32) uint8, not {pixels.shape} {pixels.dtype}")
    return pixels
