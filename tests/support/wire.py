"""Messages for the tests of the wire formats: good ones, and all kinds of bad ones."""

from __future__ import annotations

import base64
import functools
import io
import json
import struct
import zlib
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from cifarctl.stream import codecs
from cifarctl.stream.records import DeadLetter, Decoded, Record

HALF = (0.5, 0.5, 0.5)
CLASSES = 10
GREY = np.full((3, 32, 32), 128, np.uint8)
ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=200)


def record(value: bytes | None, *, key: bytes | None = b"k", offset: int = 0, **headers: bytes | None) -> Record:
    pairs = tuple((name.replace("_", "-"), text) for name, text in headers.items())
    return Record("cifar.images", 2, offset, 1_700_000_000_000, key, value, pairs)


def decode(*records: Record) -> tuple[Decoded, list[DeadLetter]]:
    return codecs.decode(records, classes=CLASSES, json_mean=HALF, json_std=HALF)


def message(**changes: Any) -> bytes:
    """A good JSON message but for `changes`; a change to ... leaves the field out."""
    body = {**json.loads(codecs.encode_json(GREY, 3, "seven", HALF, HALF)), **changes}
    return json.dumps({name: value for name, value in body.items() if value is not ...}).encode()


def floats(value: float, count: int = 3072) -> str:
    return base64.b64encode(struct.pack("<f", value) * count).decode()


channel = st.floats(-2, 2, width=32)
PHOTO = Image.fromarray(
    np.stack([np.add.outer(np.arange(40), np.arange(50)) * 2 + 20 * channel for channel in range(3)], -1).astype(
        np.uint8
    )
)


def file(picture: Image.Image = PHOTO, format: str = "PNG", **options: Any) -> bytes:
    """A picture as a file."""
    target = io.BytesIO()
    picture.save(target, format, **options)
    return target.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG, its check sum right."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *chunks: bytes, pixels: bytes = b"") -> bytes:
    """A PNG of 8-bit grey that says to be of a size, whatever it holds."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(pixels or b"\0" * (width + 1) * height)) if width * height < 1e6 else b""
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + body + chunk(b"IEND", b"")


@functools.cache
def files() -> list[bytes]:
    """Pictures of every kind."""
    modes = [file(PHOTO.convert(mode)) for mode in ("RGB", "RGBA", "L", "LA", "P", "1")]
    modes += [file(PHOTO.convert(mode), "JPEG", progressive=mode == "L") for mode in ("RGB", "L", "CMYK")]
    return [*modes, file(interlace=1), file(format="JPEG", exif=b"Exif\0\0II*\0" + b"\xff" * 30, comment=b"hi")]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A picture with some bytes changed, cut out or doubled."""
    whole = bytearray(draw(st.sampled_from(files())))
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(whole) - 1) | st.integers(0, min(80, len(whole) - 1)))
        length = draw(st.sampled_from([0, 1, 4, 30]))
        whole[at : at + length] = draw(st.binary(max_size=4) | st.just(bytes(whole[at : at + 2 * length])))
        whole = whole or bytearray(b"?")
    return bytes(whole)


anything = st.builds(
    Record,
    topic=st.just("t"),
    partition=st.integers(0, 3),
    offset=st.integers(0, 2**40),
    timestamp_ms=st.integers(-1, 2**42),
    key=st.none() | st.binary(max_size=8),
    value=st.one_of(
        st.none(),
        st.binary(max_size=40),
        st.binary(min_size=3072, max_size=3072),
        st.just(b"\x89PNG\r\n\x1a\n...."),
        damaged(),
        st.just(b"[" * 200_000),
        st.just(b'{"label": ' + b"9" * 5000 + b"}"),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=5,
        ).map(lambda body: json.dumps(body).encode()),
        st.fixed_dictionaries(
            {},
            optional={
                "image": st.sampled_from([floats(0), floats(float("nan")), floats(3e38), floats(9), "", "é", 1]),
                "label": st.none() | st.integers() | st.floats() | st.booleans() | st.text(max_size=3),
                "id": st.none() | st.integers() | st.booleans() | st.sampled_from(["", "a", "\ud800", "x" * 2000]),
            },
        ).map(lambda body: json.dumps(body).encode()),
    ),
    headers=st.lists(
        st.tuples(
            st.sampled_from(["content-type", "id", "label", "other"]),
            st.none()
            | st.binary(max_size=6)
            | st.sampled_from([b"application/json", b"application/x-cifar-raw", b"image/png", b"image/jpeg", b"3"]),
        ),
        max_size=4,
    ).map(tuple),
)


def area_means(picture: Image.Image) -> np.ndarray:
    """(3, 32, 32): what the picture looks like from afar."""
    return np.asarray(picture.convert("RGB").resize((32, 32), Image.Resampling.BOX)).transpose(2, 0, 1).astype(int)
