"""What the bytes of images mean: pure functions between Kafka records and numpy arrays.

Images travel as ``raw`` (3,072 bytes uint8 CHW), as ``json`` (the tutorial's base64 of normalised float32 CHW) or as
``png`` and ``jpeg`` of any size. The checks of a record are a few comparisons, and the pixels of a whole batch are one
buffer. Whatever is wrong with a record becomes a `DeadLetter`, not an exception.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson
import pybase64

from cifarctl.stream import pictures
from cifarctl.stream.fields import (
    headers_unread,
    json_id,
    json_label,
    json_object,
    key_id,
    label_text,
    short_id,
)
from cifarctl.stream.records import RAW_BYTES, SHAPE, DeadLetter, Decoded, Headers, Pixels, Record, Refused

RAW = "application/x-cifar-raw"
JSON = "application/json"
PNG = "image/png"
JPEG = "image/jpeg"
CONTENT_TYPES: Mapping[str, str] = {"raw": RAW, "json": JSON, "png": PNG, "jpeg": JPEG}
#: Names that are in use although they are registered nowhere.
_ALIASES = {"image/jpg": JPEG, "image/pjpeg": JPEG, "image/x-png": PNG, "text/json": JSON}
_READ = {**{name: name for name in CONTENT_TYPES.values()}, **_ALIASES}

FLOAT_BYTES = 4 * RAW_BYTES
#: An image in JSON takes 17 kB; what is far larger is refused before a parser turns it into many times its size.
MAX_JSON_BYTES = 1 << 20
#: How far outside 0-1 a pixel may lie after un-normalising: a producer's rounding, not another normalisation.
PIXEL_TOLERANCE = 0.01
UNLABELLED = -1

Floats: TypeAlias = npt.NDArray[np.float32]

_RAW_HEADER = RAW.encode()
_TYPE_HEADERS = {format: ("content-type", name.encode()) for format, name in CONTENT_TYPES.items()}
_TELLING = pictures.FIRST_BYTES | {b"{", b" ", b"\t", b"\r", b"\n", BOM_UTF8[:1]}
_NOT_BASE64 = str.maketrans("-_", "+/", " \t\r\n")  # the URL-safe alphabet, and lines


def encode_images(
    format: str,
    pixels: Pixels,
    labels: Sequence[int | None],
    ids: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
) -> list[bytes]:
    """`encode_image` for each of a batch (B, 3, 32, 32); raw ones are checked together.

    Raises:
        ValueError: as `encode_image`.
    """
    if format == "raw" and pixels.shape[1:] == SHAPE and pixels.dtype == np.uint8:
        return [image.tobytes() for image in pixels]
    return [
        encode_image(format, image, label, id, mean, std) for image, label, id in zip(pixels, labels, ids, strict=True)
    ]


def encode_image(
    format: str, pixels: Pixels, label: int | None, id: str, mean: Sequence[float], std: Sequence[float]
) -> bytes:
    """The value of an image message; `headers_for` are its headers.

    Args:
        format: raw, json or png.
        pixels: (3, 32, 32) uint8.
        label: class number, None = unlabelled; only JSON carries it in its value.
        id: image id; likewise.
        mean: of JSON's normalisation, per channel.
        std: of JSON's normalisation, per channel.

    Raises:
        ValueError: another format, or another shape or type of `pixels`.
    """
    if format == "raw":
        return encode_raw(pixels)
    if format == "json":
        return encode_json(pixels, label, id, mean, std)
    if format == "png":
        return pictures.encode_png(_checked(pixels))
    raise ValueError(f"format {format!r}: expected one of raw, json, png")


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
    normalised = _checked(pixels) / np.float32(255)
    normalised -= _channels(mean)
    normalised /= _channels(std)
    image = pybase64.b64encode_as_string(normalised.astype("<f4", copy=False).tobytes())
    return orjson.dumps({"image": image, "label": label, "id": id})


def headers_for(format: str, id: str, label: int | None) -> Headers:
    """Headers of an image message; JSON carries its label in the body.

    Raises:
        ValueError: `format` is none of raw, json, png, jpeg.
    """
    if format not in _TYPE_HEADERS:
        raise ValueError(f"format {format!r}: expected one of {', '.join(CONTENT_TYPES)}")
    if label is None or format == "json":
        return [_TYPE_HEADERS[format], ("id", id.encode())]
    return [_TYPE_HEADERS[format], ("id", id.encode()), ("label", b"%d" % label)]


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
    labels = _label_texts(classes)
    scale, shift = _restoring(tuple(json_mean), tuple(json_std))
    payloads: list[bytes] = []
    known: list[int] = []
    ids: list[str] = []
    good: list[Record] = []
    letters: list[DeadLetter] = []
    with np.errstate(all="ignore"):  # hostile floats overflow; the range check catches what comes out
        for record in records:
            try:
                payload, id, label = _parse(record, labels, scale, shift)
            except Refused as refused:
                letters.append(DeadLetter(record, "decode", refused.error, refused.message))
                continue
            payloads.append(payload)
            known.append(label)
            ids.append(id)
            good.append(record)
    # A bytearray, because torch warns about tensors over memory that cannot be written.
    pixels = np.frombuffer(bytearray().join(payloads), dtype=np.uint8).reshape(-1, *SHAPE)
    return Decoded(pixels, np.array(known, dtype=np.int64), ids, good), letters


def id_of(record: Record) -> str | None:
    """The id under which an image is answered, whatever else is wrong with it; None where it has none.

    Cheap where the id travels in a header or in the key: only JSON is parsed.
    """
    value, headers = record.value or b"", dict(record.headers)
    try:
        if _content_type(headers.get("content-type"), value) == JSON and len(value) <= MAX_JSON_BYTES:
            body = orjson.loads(value)
            if isinstance(body, dict) and body.get("id") not in (None, ""):
                return json_id(body["id"])
        return _header_id(record, headers)
    except (Refused, ValueError):
        return None


def _parse(record: Record, labels: Mapping[bytes, int], scale: Floats, shift: Floats) -> tuple[bytes, str, int]:
    """The 3,072 bytes, the id and the label of an image.

    Raises:
        Refused: it is none.
    """
    value, headers = record.value, dict(record.headers)  # of a name that comes twice the last one, as everywhere
    if record.unread:
        raise headers_unread()
    if value is None:
        raise Refused("NullValue", "the message has no value; an image needs one")
    header = headers.get("content-type")
    content_type = RAW if header == _RAW_HEADER else _content_type(header, value)  # the usual one first
    if content_type == JSON:
        return _parse_json(record, value, headers, labels, scale, shift)
    id, label = _header_id(record, headers), _header_label(headers, labels)
    if content_type == PNG:
        return pictures.decode_png(value), id, label
    if content_type == JPEG:
        return pictures.decode_jpeg(value), id, label
    if len(value) != RAW_BYTES:
        raise Refused("WrongLength", f"a raw image has {RAW_BYTES} bytes, not {len(value)}{_looks_like(value)}")
    return value, id, label


def _content_type(header: bytes | None, value: bytes) -> str:
    """What the header says, else what the first bytes or the length do."""
    name = header.partition(b";")[0].strip().lower().decode("utf-8", "replace") if header else ""
    if name:
        if (known := _READ.get(name)) is None:
            expected = ", ".join(CONTENT_TYPES.values())
            raise Refused("UnsupportedContentType", f"content-type {name[:100]!r}: expected one of {expected}")
        return known
    if value[:1] in _TELLING:  # which few raw images begin with
        kind = pictures.kind(value)
        if kind in ("PNG", "JPEG"):
            return PNG if kind == "PNG" else JPEG
        if kind is not None:
            raise Refused("UnsupportedContentType", f"the message is a {kind} picture; only PNG and JPEG are read")
        if _holds_image(value):
            return JSON
    return RAW if len(value) == RAW_BYTES else JSON


def _holds_image(value: bytes) -> bool:
    """Whether it is a JSON object with an image, although as long as a raw one."""
    text = value.removeprefix(BOM_UTF8)  # which is refused where JSON is read: by what it is
    if len(value) != RAW_BYTES or not text.lstrip().startswith(b"{"):
        return False
    try:
        return "image" in json_object(text, "image")
    except Refused:
        return False


def _looks_like(value: bytes) -> str:
    kind = pictures.kind(value)
    return "" if kind is None else f": it is a {kind} picture"


def _parse_json(
    record: Record,
    value: bytes,
    headers: Mapping[str, bytes | None],
    labels: Mapping[bytes, int],
    scale: Floats,
    shift: Floats,
) -> tuple[bytes, str, int]:
    if len(value) > MAX_JSON_BYTES:
        raise Refused(
            "TooLarge", f"{len(value)} bytes of JSON; an image takes 17,000, at most {MAX_JSON_BYTES} are read"
        )
    body = json_object(value, "image, label, id")
    payload = _json_image(body)
    label, id = body.get("label"), body.get("id")
    return (
        _unnormalised(payload, scale, shift),
        _header_id(record, headers) if id in (None, "") else json_id(id),
        _header_label(headers, labels) if label is None else json_label(label, len(labels)),
    )


def _json_image(body: Mapping[str, Any]) -> bytes:
    image = body.get("image")
    if image is None:
        raise Refused("MissingImage", "the JSON has no image")
    if not isinstance(image, str):
        raise Refused("ImageNotText", f"image is a {type(image).__name__}, not a base64 string")
    payload = _unbased(image)
    if len(payload) != FLOAT_BYTES:
        raise Refused(
            "WrongLength",
            f"image has {len(payload)} bytes, not {FLOAT_BYTES} (float32, 3 x 32 x 32){_looks_like(payload)}",
        )
    return payload


def _unbased(image: str) -> bytes:
    """The bytes that `image` is the base64 of: of either alphabet (RFC 4648), in one line or several."""
    try:
        return pybase64.b64decode(image, validate=True)
    except ValueError:
        pass
    try:
        return pybase64.b64decode(image.translate(_NOT_BASE64), validate=True)
    except ValueError as error:
        if image.startswith("data:"):
            raise Refused("BadBase64", "image is a data: URL; send only what follows its comma") from None
        raise Refused("BadBase64", f"image is not base64: {error}") from None


def _header_id(record: Record, headers: Mapping[str, bytes | None]) -> str:
    """The id of the header, else the key, else where the record lies."""
    header = headers.get("id")
    if header:
        try:
            return short_id(header.decode(), len(header))
        except UnicodeDecodeError:
            raise Refused("IdNotText", "the id header is not UTF-8") from None
    if record.key:
        return key_id(record.key)
    return f"{record.topic}-{record.partition}-{record.offset}"


def _header_label(headers: Mapping[str, bytes | None], labels: Mapping[bytes, int]) -> int:
    header = headers.get("label")
    if header is None:
        return UNLABELLED
    label = labels.get(header)
    if label is not None:
        return label
    return label_text(header, len(labels))


def _unnormalised(payload: bytes, scale: Floats, shift: Floats) -> bytes:
    """Normalised float32 CHW to uint8 CHW.

    One image at a time: its passes stay within the processor's first cache, those over a batch do not.
    """
    values = np.frombuffer(payload, dtype="<f4").reshape(3, -1)
    scaled = values * scale
    scaled += shift
    low, high = (float(scaled.min()) - 0.5) / 255, (float(scaled.max()) - 0.5) / 255
    if not (low >= -PIXEL_TOLERANCE and high <= 1 + PIXEL_TOLERANCE):  # NaN compares false
        if not np.isfinite(values).all():
            raise Refused("PixelsNotFinite", "image holds NaN or infinite values")
        raise Refused(
            "PixelsOutOfRange",
            f"pixels reach from {low:.3g} to {high:.3g} after un-normalising, not 0 to 1: "
            "set serve.json_mean and serve.json_std to what the producer normalised with",
        )
    if low < 0 or high > 1:
        np.clip(scaled, 0, 255, out=scaled)
    return scaled.astype(np.uint8).tobytes()


@lru_cache(maxsize=8)
def _restoring(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Floats, Floats]:
    """Factor and summand (3, 1) from normalised values to 0-255; half of 1 more, so that cutting off rounds."""
    return (
        np.asarray([255 * deviation for deviation in std], dtype=np.float32).reshape(3, 1),
        np.asarray([255 * middle + 0.5 for middle in mean], dtype=np.float32).reshape(3, 1),
    )


@lru_cache(maxsize=8)
def _label_texts(classes: int) -> Mapping[bytes, int]:
    """The usual decimal text of each label."""
    return {b"%d" % label: label for label in range(classes)}


def _channels(values: Sequence[float]) -> Floats:
    return np.asarray(values, dtype=np.float32).reshape(3, 1, 1)


def _checked(pixels: Pixels) -> Pixels:
    if pixels.shape != SHAPE or pixels.dtype != np.uint8:
        raise ValueError(f"an image is (3, 32, 32) uint8, not {pixels.shape} {pixels.dtype}")
    return pixels
