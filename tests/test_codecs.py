"""Wire formats: round trips, the tutorial's message, and what becomes of every kind of bad input."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps, features

from cifarctl.stream import codecs, fields, label_records, letters, pictures
from cifarctl.stream.codecs import DeadLetter, Decoded, Record

HALF = (0.5, 0.5, 0.5)
CLASSES = 10
GREY = np.full((3, 32, 32), 128, np.uint8)

images = hnp.arrays(np.uint8, (3, 32, 32))
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


@given(images, ids, st.none() | st.integers(0, 9))
def test_raw_comes_back(pixels: np.ndarray, id: str, label: int | None) -> None:
    sent = Record("t", 0, 0, 1, None, codecs.encode_raw(pixels), tuple(codecs.headers_for("raw", id, label)))
    good, bad = decode(sent)
    assert not bad
    assert np.array_equal(good.pixels, pixels[None])
    assert good.labels.tolist() == [-1 if label is None else label]
    assert good.ids == [id]
    assert good.records == [sent]


channel = st.floats(-2, 2, width=32)
deviation = st.floats(0.015625, 8, width=32)


@given(
    images,
    ids,
    st.none() | st.integers(0, 9),
    st.tuples(channel, channel, channel),
    st.tuples(deviation, deviation, deviation),
)
def test_json_comes_back_whatever_the_normalisation(
    pixels: np.ndarray, id: str, label: int | None, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    value = codecs.encode_json(pixels, label, id, mean, std)
    sent = Record("t", 0, 0, 1, None, value, tuple(codecs.headers_for("json", id, label)))
    good, bad = codecs.decode([sent], classes=CLASSES, json_mean=mean, json_std=std)
    assert not bad
    assert np.array_equal(good.pixels, pixels[None])
    assert good.labels.tolist() == [-1 if label is None else label]
    assert good.ids == [id]


def test_the_tutorials_message_to_the_letter() -> None:
    pixels = np.zeros((3, 32, 32), np.uint8)
    pixels[1] = 255
    image = struct.pack("<f", -1.0) * 1024 + struct.pack("<f", 1.0) * 1024 + struct.pack("<f", -1.0) * 1024
    expected = {"image": base64.b64encode(image).decode(), "label": 6, "id": "img-1"}
    value = codecs.encode_json(pixels, 6, "img-1", HALF, HALF)
    assert json.loads(value) == expected
    assert list(json.loads(value)) == ["image", "label", "id"]

    good, bad = decode(record(json.dumps(expected).encode(), key=None))
    assert not bad
    assert np.array_equal(good.pixels[0], pixels)
    assert (good.labels.tolist(), good.ids) == ([6], ["img-1"])


def test_headers_of_a_message() -> None:
    assert codecs.headers_for("raw", "é", 4) == [
        ("content-type", b"application/x-cifar-raw"),
        ("id", "é".encode()),
        ("label", b"4"),
    ]
    assert codecs.headers_for("raw", "a", None) == [
        ("content-type", b"application/x-cifar-raw"),
        ("id", b"a"),
    ]
    assert codecs.headers_for("json", "a", 4) == [("content-type", b"application/json"), ("id", b"a")]
    with pytest.raises(ValueError, match="tiff"):
        codecs.headers_for("tiff", "a", None)


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


@settings(max_examples=300, deadline=None)
@given(st.lists(anything, max_size=12))
@pytest.mark.slow
def test_every_record_is_accounted_for_once_and_in_order(records: list[Record]) -> None:
    good, bad = decode(*records)
    place = {id(item): index for index, item in enumerate(records)}
    images_at = [place[id(item)] for item in good.records]
    letters_at = [place[id(letter.record)] for letter in bad]
    if len(place) == len(records):
        assert sorted(images_at + letters_at) == list(range(len(records)))
        assert images_at == sorted(images_at)
        assert letters_at == sorted(letters_at)
    assert len(images_at) + len(letters_at) == len(records)
    assert good.pixels.shape == (len(good.ids), 3, 32, 32)
    assert good.pixels.dtype == np.uint8
    assert good.labels.shape == (len(good.ids),)
    assert ((good.labels >= -1) & (good.labels < CLASSES)).all()
    for name in good.ids:
        assert len(name.encode()) <= 3 * 1024
    for letter in bad:
        assert letter.stage == "decode"
        assert letter.error.isidentifier()
        assert letter.message
        key, value, headers = codecs.dead_letter_message(letter)
        assert (key, value) == (letter.record.key, letter.record.value)
        assert headers[: len(letter.record.headers)] == list(letter.record.headers)


BAD = [
    ("NullValue", record(None)),
    ("HeadersUnread", record(b"x" * 3072)._replace(unread=True)),
    ("UnsupportedContentType", record(file(format="GIF"))),
    ("UnsupportedContentType", record(b"BM" + b"x" * 20, content_type=b"image/bmp")),
    ("BadBase64", record(message(image="data:;base64," + floats(0)))),
    ("NotJson", record(message().decode().encode("utf-16"))),
    ("NotJson", record(b"\xef\xbb\xbf" + message())),
    ("NotJson", record((b"\xef\xbb\xbf" + message(image="AAAA")).ljust(3072))),
    ("NotJson", record(message().replace(b"3", b"Infinity", 1))),
    ("NotJson", record(b'{"image": ' + b"[" * 5000 + b"]" * 5000 + b"}")),
    ("WrongLength", record(b'{"image": "AAAA"}'.ljust(3072))),
    ("WrongLength", record(message(image=base64.b64encode(file()).decode()))),
    ("LabelOutOfRange", record(b"x" * 3072, label=b"%d" % 2**70)),
    ("LabelOutOfRange", record(b"x" * 3072, label=b"-" + b"9" * 5000)),
    ("LabelNotInteger", record(b"x" * 3072, label=b" 3")),
    ("LabelNotInteger", record(b"x" * 3072, label=b"3\n")),
    ("LabelNotInteger", record(b"x" * 3072, label=b"+3")),
    ("LabelNotInteger", record(b"x" * 3072, label=b"1_0")),
    ("LabelNotInteger", record(b"x" * 3072, label=b"3.0")),
    ("IdTooLong", record(b"x" * 3072, key=b"\xff" * 600)),
    ("UnsupportedContentType", record(b"x" * 3072, content_type=b"text/\xff")),
    ("UnsupportedContentType", record(file(format="GIF"), content_type=b"image/gif")),
    ("BadPicture", record(b"x" * 3072, content_type=b"image/png")),
    ("BadPicture", record(b"x" * 3072, content_type=b"image/jpeg")),
    ("BadPicture", record(file(format="JPEG"), content_type=b"image/png")),
    ("BadPicture", record(file(format="GIF"), content_type=b"image/png")),
    ("BadPicture", record(b"\x89PNG\r\n\x1a\n" + b"x" * 50)),
    ("BadPicture", record(b"\xff\xd8\xff\xe0" + b"x" * 50)),
    ("BadPicture", record(file()[:65])),
    ("BadPicture", record(file()[:40])),
    ("BadPicture", record(file(format="JPEG")[:400])),
    ("BadPicture", record(file(format="JPEG")[:700])),
    ("BadPicture", record(png(0, 32))),
    ("BadPicture", record(png(32, 32, pixels=b"\0" * 33 * 31 + b"\x09" * 33))),
    ("PictureTooLarge", record(png(60_000, 60_000))),
    ("PictureTooLarge", record(png(pictures.MAX_SIDE + 1, 1))),
    ("PictureTooLarge", record(png(1, 2**31 - 1), content_type=b"image/png; charset=binary")),
    ("PictureTooLarge", record(file(Image.new("L", (1, pictures.MAX_SIDE + 1)), "JPEG"))),
    ("PictureTooLarge", record(png(32, 32, chunk(b"IDAT", b"") * pictures.MAX_PARTS))),
    ("PictureTooLarge", record(b"\xff\xd8" + b"\xff\xe1\0\2" * (pictures.MAX_PARTS + 1))),
    ("LabelOutOfRange", record(file(), label=b"10")),
    ("IdTooLong", record(file(format="JPEG"), id=b"x" * 1025)),
    ("TooLarge", record(message(id="a", more="x" * (1 << 20)))),
    ("TooLarge", record(bytes(20_000_000))),
    ("WrongLength", record(b"x" * 3071, content_type=b"application/x-cifar-raw")),
    ("WrongLength", record(b"", content_type=b"application/x-cifar-raw")),
    ("WrongLength", record(message(image=floats(0, 3071)))),
    ("WrongLength", record(message(image=""))),
    ("NotJson", record(b"")),
    ("NotJson", record(b"\xff\x00garbage")),
    ("NotJson", record(b"[" * 100_000)),
    ("NotJson", record(b'{"label": ' + b"1" * 10_000 + b"}")),
    ("NotJson", record(b"x" * 3072, content_type=b"application/json")),
    ("NotAnObject", record(b"[1, 2]")),
    ("NotAnObject", record(b"null")),
    ("MissingImage", record(message(image=...))),
    ("MissingImage", record(message(image=None))),
    ("ImageNotText", record(message(image=[1, 2]))),
    ("BadBase64", record(message(image="*" + floats(0)))),
    ("BadBase64", record(message(image=floats(0)[:-1]))),
    ("BadBase64", record(message(image="é" * 16384))),
    ("PixelsNotFinite", record(message(image=floats(float("nan"))))),
    ("PixelsNotFinite", record(message(image=floats(float("-inf"))))),
    ("PixelsOutOfRange", record(message(image=floats(1.03)))),
    ("PixelsOutOfRange", record(message(image=floats(-1.03)))),
    ("PixelsOutOfRange", record(message(image=floats(255.0)))),
    ("PixelsOutOfRange", record(message(image=floats(3e38)))),
    ("LabelNotInteger", record(message(label="3"))),
    ("LabelNotInteger", record(message(label=True))),
    ("LabelNotInteger", record(message(label=3.0))),
    ("LabelOutOfRange", record(message(label=10))),
    ("LabelOutOfRange", record(message(label=-1))),
    ("LabelOutOfRange", record(message(label=2**64 - 1))),
    ("LabelNotInteger", record(message(label=10**100))),
    ("LabelNotInteger", record(b"x" * 3072, label=b"cat")),
    ("LabelNotInteger", record(b"x" * 3072, label="٣".encode())),
    ("LabelNotInteger", record(b"x" * 3072, label=b"")),
    ("LabelOutOfRange", record(b"x" * 3072, label=b"10")),
    ("LabelOutOfRange", record(b"x" * 3072, label=b"-1")),
    ("IdNotText", record(message(id=["a"]))),
    ("IdNotText", record(message(id=True))),
    ("IdNotText", record(message(id=1.5))),
    ("IdNotText", record(message(id=10**100))),
    ("NotJson", record(message(id="\ud800"))),
    ("NotJson", record(b'{"image": "", "label": NaN}')),
    ("IdNotText", record(b"x" * 3072, id=b"\xff")),
    ("IdTooLong", record(message(id="é" * 513))),
    ("IdTooLong", record(b"x" * 3072, id=b"x" * 1025)),
    ("IdTooLong", record(b"x" * 3072, key=b"x" * 1025)),
]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (record(b"\xef\xbb\xbf" + message()), "byte order mark"),
        (record(message(image="data:;base64," + floats(0))), "send only the part after its comma"),
        (record(file(format="GIF")), "a GIF picture; only PNG and JPEG are supported"),
        (record(b"x" * 3072, key=b"\xff" * 600), "1204 bytes, because hexadecimal doubles the 600 bytes of the key"),
        (record(b"x" * 3072, key=b"x" * 1025), "the id has 1025 bytes; at most 1024"),
        (record(b"x" * 3072)._replace(unread=True), "send header names in UTF-8"),
    ],
)
def test_a_dead_letter_says_what_to_send_instead(bad: Record, told: str) -> None:
    _, (letter,) = decode(bad)
    assert told in letter.message


@pytest.mark.parametrize(("error", "bad"), BAD, ids=[f"{error}-{place}" for place, (error, _) in enumerate(BAD)])
def test_bad_input_becomes_a_dead_letter_between_good_neighbours(error: str, bad: Record) -> None:
    first, last = record(b"\x01" * 3072, key=b"first"), record(message(id="last"))
    good, letters = decode(first, bad, last)
    assert [(letter.record, letter.error) for letter in letters] == [(bad, error)]
    assert good.ids == ["first", "last"]
    assert (good.pixels[0] == 1).all()
    assert (good.pixels[1] == 128).all()


def test_pixels_out_of_range_name_the_settings() -> None:
    _, (letter,) = decode(record(message(image=floats(2.0))))
    assert "serve.json_mean" in letter.message
    assert "serve.json_std" in letter.message
    assert "1.5" in letter.message


def test_a_producers_rounding_is_no_error() -> None:
    good, bad = decode(record(message(image=floats(1.01))), record(message(image=floats(-1.01))))
    assert not bad
    assert (good.pixels[0] == 255).all()
    assert (good.pixels[1] == 0).all()


@given(images, ids, st.none() | st.integers(0, 9))
def test_png_comes_back(pixels: np.ndarray, id: str, label: int | None) -> None:
    value = codecs.encode_image("png", pixels, label, id, HALF, HALF)
    good, bad = decode(Record("t", 0, 0, 1, None, value, tuple(codecs.headers_for("png", id, label))))
    assert not bad
    assert np.array_equal(good.pixels, pixels[None])
    assert (good.labels.tolist(), good.ids) == ([-1 if label is None else label], [id])


@pytest.mark.parametrize("format", ["raw", "json", "png"])
def test_every_format_is_written_by_one_name(format: str) -> None:
    value = codecs.encode_image(format, GREY, 3, "seven", HALF, HALF)
    headers = codecs.headers_for(format, "seven", 3)
    for known in (tuple(headers), tuple(pair for pair in headers if pair[0] != "content-type")):
        good, bad = decode(Record("t", 0, 0, 1, None, value, known))
        assert not bad
        assert np.array_equal(good.pixels[0], GREY)
        assert (good.labels.tolist(), good.ids) == ([3], ["seven"])


def test_no_other_format_is_written() -> None:
    with pytest.raises(ValueError, match="tiff"):
        codecs.encode_image("tiff", GREY, 3, "seven", HALF, HALF)


def area_means(picture: Image.Image) -> np.ndarray:
    """(3, 32, 32): what the picture looks like from afar."""
    return np.asarray(picture.convert("RGB").resize((32, 32), Image.Resampling.BOX)).transpose(2, 0, 1).astype(int)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"])
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_pictures_of_any_mode_and_size_become_images(mode: str, format: str) -> None:
    if (mode in {"RGBA", "LA", "P", "1"} and format == "JPEG") or (mode == "CMYK" and format == "PNG"):
        return
    picture = PHOTO.convert(mode)
    good, bad = decode(record(file(picture, format)))
    assert not bad
    tolerance = 0 if format == "PNG" else 8  # JPEG loses something
    assert abs(good.pixels[0].astype(int) - area_means(picture)).max() <= tolerance


def test_sixteen_bits_of_grey_become_eight() -> None:
    steps = np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64
    good, bad = decode(record(file(Image.fromarray(steps))))
    assert not bad
    assert np.array_equal(good.pixels[0], np.repeat((steps >> 8).astype(np.uint8)[None], 3, 0))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
@pytest.mark.parametrize("size", [(32, 32), (70, 50)])
def test_white_shows_through_what_is_transparent(mode: str, size: tuple[int, int]) -> None:
    picture = PHOTO.resize(size).convert("RGBA")
    opacity = Image.fromarray(np.linspace(0, 255, size[0] * size[1]).reshape(size[::-1]).astype(np.uint8))
    options: dict[str, Any] = {}
    if mode in ("RGB", "L", "P"):  # a colour, or a place of the palette, that is transparent
        picture = PHOTO.resize(size).convert(mode)
        options = {"transparency": tuple(PHOTO.resize(size).getpixel((9, 9))) if mode == "RGB" else 90}
    else:
        picture.putalpha(opacity)
        picture = picture.convert(mode)
    value = file(picture, **options)
    seen = Image.open(io.BytesIO(value)).convert("RGBA")
    expected = area_means(Image.alpha_composite(Image.new("RGBA", size, "white"), seen))
    good, bad = decode(record(value))
    assert not bad
    assert abs(good.pixels[0].astype(int) - expected).max() <= 1
    assert not np.array_equal(expected, area_means(picture))  # what has been dropped until now


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_picture_is_turned_as_its_exif_says(orientation: int, format: str, order: str) -> None:
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F], exif[0x0112] = "a camera", orientation
    value = file(format=format, exif=exif, **({"quality": 100, "subsampling": 0} if format == "JPEG" else {}))
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(value)))
    good, bad = decode(record(value))
    assert not bad
    assert abs(good.pixels[0].astype(int) - area_means(shown)).max() <= 2  # the box filter rounds from the other side


def test_of_an_animation_the_first_picture_counts() -> None:
    good, bad = decode(record(file(save_all=True, append_images=[PHOTO.rotate(90)])))
    assert not bad
    assert np.array_equal(good.pixels[0].astype(int), area_means(PHOTO))


def test_a_large_photograph_is_shrunk() -> None:
    picture = PHOTO.resize((pictures.MAX_SIDE, 1000), Image.Resampling.BICUBIC)
    good, bad = decode(record(file(picture, "JPEG", progressive=True)))
    assert not bad
    assert abs(good.pixels[0].astype(int) - area_means(picture)).max() <= 8


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 50_000_000)),
        chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(b"x" * 50_000_000)),
        chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"x" * 50_000_000)),
        chunk(b"zTXt", b"damaged\0\0no deflate"),
        chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
        chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)),
        chunk(b"acTL", b"\xff" * 8),
    ],
    ids=["zTXt", "iTXt", "iCCP", "damaged", "Exif", "second header", "animation"],
)
def test_what_holds_no_pixels_is_never_unpacked(extra: bytes) -> None:
    good, bad = decode(record(png(32, 32, extra)))
    assert not bad
    assert not good.pixels.any()


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded() -> None:
    whole = file(format="JPEG", progressive=True)
    scan = whole.rindex(b"\xff\xda")
    _, (letter,) = decode(record(whole[:-2] + whole[scan:-2] * 1000 + b"\xff\xd9"))
    assert letter.error == "PictureTooLarge"
    assert "scans" in letter.message


def test_a_second_frame_in_a_jpeg_is_refused() -> None:
    whole = file(format="JPEG")
    frame = whole.index(b"\xff\xc0")
    length = 2 + int.from_bytes(whole[frame + 2 : frame + 4], "big")
    _, (letter,) = decode(record(whole[:frame] + whole[frame : frame + length] + whole[frame:]))
    assert letter.error == "BadPicture"


@settings(max_examples=400, deadline=None)
@given(damaged())
def test_damaged_pictures_are_images_or_letters(value: bytes) -> None:
    good, bad = decode(
        record(value), record(value, content_type=b"image/png"), record(value, content_type=b"image/jpeg")
    )
    assert len(good.ids) + len(bad) == 3
    for letter in bad:
        assert "0x" not in letter.message  # an object of this process, which tells nobody anything
        assert "Warning" not in letter.message  # it would be printed outside tests


@pytest.mark.parametrize(
    ("sent", "id"),
    [
        (record(message(id="body"), id=b"header"), "body"),
        (record(message(id=17), id=b"header"), "17"),
        (record(message(id=None), id=b"header"), "header"),
        (record(message(id="")), "k"),
        (record(message(id=...)), "k"),
        (record(b"x" * 3072, id=b"header"), "header"),
        (record(b"x" * 3072, id=None), "k"),
        (record(b"x" * 3072, key=b"\xffkey"), "key:ff6b6579"),
        (record(b"x" * 3072, key=(600).to_bytes(8, "big")), "\0\0\0\0\0\0\2X"),
        (record(b"x" * 3072, key=(128).to_bytes(8, "big")), "key:0000000000000080"),
        (record(b"x" * 3072, key=b"key:12"), "key:12"),
        (record(b"x" * 3072, key=b"key:ff"), "key:6b65793a6666"),
        (record(b"x" * 3072)._replace(headers=(("id", b"first"), ("id", b"last"))), "last"),
        (record(b"x" * 3072, id=b""), "k"),
        (record(b"x" * 3072, id=b"a\0b\nc"), "a\0b\nc"),
        (record(b"x" * 3072, key=None, offset=12), "cifar.images-2-12"),
        (record(b"x" * 3072, key=b"", offset=13), "cifar.images-2-13"),
    ],
)
def test_where_the_id_comes_from(sent: Record, id: str) -> None:
    good, bad = decode(sent)
    assert not bad
    assert good.ids == [id]


@pytest.mark.parametrize(
    ("sent", "label"),
    [
        (record(message(label=None)), -1),
        (record(message(label=...)), -1),
        (record(message(label=...), label=b"4"), 4),
        (record(message(label=5), label=b"4"), 5),
        (record(b"x" * 3072), -1),
        (record(b"x" * 3072, label=None), -1),
        (record(b"x" * 3072, label=b"09"), 9),
        (record(b"x" * 3072, label=b"0" * 5000 + b"7"), 7),
        (record(message().replace(b'"label": 3', b'"label": 3, "label": 4')), 4),
        (record(b"x" * 3072)._replace(headers=(("label", b"3"), ("label", b"4"))), 4),
    ],
)
def test_where_the_label_comes_from(sent: Record, label: int) -> None:
    good, bad = decode(sent)
    assert not bad
    assert good.labels.tolist() == [label]


written = st.recursive(
    st.binary(max_size=6) | st.text(max_size=4).map(str.encode) | st.sampled_from([b"key:", b"key:ff", b"key:FF"]),
    lambda keys: keys.map(lambda key: b"key:" + key.hex().encode()),
)


@given(written, written)
def test_different_keys_are_different_ids(first: bytes, second: bytes) -> None:
    assert (fields.shown_key(first) == fields.shown_key(second)) == (first == second)


def test_binary_keys_are_as_many_ids_everywhere() -> None:
    keys = [number.to_bytes(8, "big") for number in range(128, 728)]
    images, _ = decode(*(record(bytes(3072), key=key) for key in keys))
    found, _ = label_records.decode([record(b'{"label": 3}', key=key) for key in keys], classes=CLASSES)
    assert len(set(images.ids)) == len(keys)
    assert images.ids == found.ids


def test_labels_do_as_images_do() -> None:
    """What is no label is refused as what is no image is."""
    sent = [
        record(b'{"id": "a", "label": 3}')._replace(unread=True),
        record('{"id": "a", "label": 3}'.encode("utf-16")),
        record(b'\xff{"id": "a", "label": 3}'),
        record(b'{"id": "a", "label": NaN}'),
        record(b'{"id": "a", "label": true}'),
        record(b'{"id": "a", "label": "3"}'),
        record(b'{"id": 1.5, "label": 3}'),
        record(b'{"label": 3}', key=b"\xff" * 600),
    ]
    _, bad = label_records.decode(sent, classes=CLASSES)
    assert [letter.error for letter in bad] == [
        *["HeadersUnread", "NotJson", "NotJson", "NotJson", "LabelNotInteger", "LabelNotInteger"],
        *["IdNotText", "IdTooLong"],
    ]
    assert "UTF-16" in bad[1].message
    assert "surrogates" not in bad[2].message


@given(images, st.integers(1, 200), st.sampled_from(["\n", "\r\n", " "]))
def test_base64_of_every_kind_is_read(pixels: np.ndarray, width: int, newline: str) -> None:
    image = json.loads(codecs.encode_json(pixels, 3, "a", HALF, HALF))["image"]
    lines = newline.join(image[at : at + width] for at in range(0, len(image), width))
    url_safe = image.replace("+", "-").replace("/", "_")
    good, bad = decode(*(record(message(image=text)) for text in (image, lines, url_safe)))
    assert not bad
    assert all(np.array_equal(found, pixels) for found in good.pixels)


def test_json_of_the_length_of_a_raw_image_is_json() -> None:
    """Even where it is none that can be used; all else of this length is raw."""
    for value in (b'{"image": "AAAA"}'.ljust(3072), b' \n{"image": null, "label": 3}'.ljust(3072)):
        _, (letter,) = decode(record(value))
        assert letter.error in ("WrongLength", "MissingImage")
    good, bad = decode(*(record(value.ljust(3072)) for value in (b'{"label": 3}', b'{"image"', b"{", b"[1]", b" ")))
    assert not bad
    assert len(good.ids) == 5


@pytest.mark.parametrize("format", ["WebP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF"])
@pytest.mark.parametrize("untyped", [True, False])
def test_a_picture_of_another_format_is_called_by_its_name(format: str, untyped: bool) -> None:
    if format in ("WebP", "AVIF") and not features.check(format.lower()):
        pytest.skip(f"this Pillow writes no {format}")
    value = file(format=format)
    value = value if not untyped else value[:3072].ljust(3072, b"\0")  # as long as a raw image, at that
    for typed in ({}, {"content_type": b"image/png"}):
        _, (letter,) = decode(record(value, **typed))
        assert format.replace("G2", "G 2") in letter.message
        assert "PNG" in letter.message
        assert "surrogates" not in letter.message


@pytest.mark.parametrize("name", ["image/jpg", "image/pjpeg", "IMAGE/JPEG", " image/jpg ; q=1", "image/jpeg;x"])
def test_a_jpeg_by_any_name(name: str) -> None:
    good, bad = decode(record(file(format="JPEG"), content_type=name.encode()))
    assert not bad
    assert abs(good.pixels[0].astype(int) - area_means(PHOTO)).max() <= 8


def test_a_blank_content_type_is_none() -> None:
    good, bad = decode(record(bytes(3072), content_type=b" "), record(file(), content_type=b";"))
    assert not bad
    assert len(good.ids) == 2


def test_content_type_decides_before_the_length() -> None:
    padded = message().ljust(16_600)
    good, bad = decode(
        record(padded, content_type=b"Application/JSON; charset=utf-8"),
        record(b"\x89PNG\r\n\x1a\n".ljust(3072), content_type=b"application/x-cifar-raw"),
        record(b"\x07" * 3072, content_type=b""),
    )
    assert not bad
    assert (good.pixels[0] == 128).all()
    assert (good.pixels[2] == 7).all()


def test_decoded_pixels_can_be_written_to_and_no_records_are_no_images() -> None:
    good, _ = decode(record(b"\x00" * 3072))
    good.pixels[0, 0, 0, 0] = 9
    empty, bad = decode()
    assert empty.pixels.shape == (0, 3, 32, 32)
    assert empty.labels.dtype == np.int64
    assert bad == []


def test_only_images_are_encoded() -> None:
    with pytest.raises(ValueError, match="uint8"):
        codecs.encode_raw(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="float32"):
        codecs.encode_json(np.zeros((3, 32, 32), np.float32), 0, "a", HALF, HALF)


def test_dead_letter_headers_come_after_the_original_ones() -> None:
    _, (letter,) = decode(record(b"oops", offset=5, content_type=b"application/json", other=None))
    headers = codecs.dead_letter_headers(letter)
    assert headers[:2] == [("content-type", b"application/json"), ("other", None)]
    assert headers[2][0] == "cifarctl.error.class"
    assert dict(headers[2:]) == {
        "cifarctl.error.class": b"NotJson",
        "cifarctl.error.message": letter.message.encode(),
        "cifarctl.error.stage": b"decode",
        "cifarctl.source.topic": b"cifar.images",
        "cifarctl.source.partition": b"2",
        "cifarctl.source.offset": b"5",
    }


@pytest.mark.parametrize(
    "bad",
    [
        record(b"?" * 1_000_000, offset=5, other=b"y"),
        record(b"?" * 20_000_000, offset=5, other=b"y"),
        record(b"?" * 10, key=b"k" * 950_000, offset=5, other=b"y"),
    ],
)
def test_a_huge_dead_letter_travels_as_a_digest(bad: Record) -> None:
    _, (letter,) = decode(bad)
    key, body, headers = codecs.dead_letter_message(letter)
    digest = json.loads(body or b"")
    value = bad.value or b""
    assert key == (b"k" if bad.key == b"k" else None)
    assert digest["size"] == len(value)
    assert digest["sha256"] == hashlib.sha256(value).hexdigest()
    assert value.startswith(base64.b64decode(digest["head"]))
    assert digest["source"] == {"topic": "cifar.images", "partition": 2, "offset": 5}
    assert headers[0] == ("other", b"y")
    assert dict(headers)["cifarctl.error.class"] == letter.error.encode()
    assert len(body or b"") < 10_000


def wire_size(key: bytes | None, value: bytes | None, headers: codecs.Headers) -> int:
    """What Kafka counts: every length as a varint of at most five bytes."""
    names = sum(len(name.encode()) + len(text or b"") + 10 for name, text in headers)
    return len(key or b"") + len(value or b"") + names + 100


@pytest.mark.parametrize(
    "bad",
    [
        record(b"?", other=b"y" * 1_000_000),
        record(b"?", **{f"h{number}": b"" for number in range(200_000)}),
        record(b"?", **{"é" * 700_000: b""}),
        record(b"?" * 880_000, key=b"x" * 15_000, other=b"y" * 16_000),
        record(b"?" * 899_000, content_type=b"\xff" * 1000),
        record(None, key=b"x" * 2_000_000),
        record(b"[" * 890_000),
    ],
    ids=["large header", "many headers", "name beyond ASCII", "all of it", "type", "key", "value"],
)
def test_a_dead_letter_always_fits(bad: Record) -> None:
    _, (letter,) = decode(bad)
    assert wire_size(*codecs.dead_letter_message(letter)) < 1 << 20


def test_a_letter_comes_back() -> None:
    _, (sent,) = decode(record(b"oops", offset=5, content_type=b"application/json", other=None))
    key, value, headers = codecs.dead_letter_message(sent)
    lying = Record("cifar.dead-letters", 1, 9, 0, key, value, tuple(headers))
    letter = letters.read_letter(lying)
    assert letter is not None
    assert (letter.error, letter.message, letter.stage) == (sent.error, sent.message, "decode")
    assert letter.source == letters.Source("cifar.images", 2, 5)
    assert letter.original_headers == list(sent.record.headers)
    assert not letter.digested


def test_a_receipt_is_no_letter() -> None:
    receipt = Record("cifar.dead-letters", 1, 9, 0, None, None, tuple(letters.receipt(3, 17)))
    assert letters.read_letter(receipt) is None
    assert letters.receipt_for(receipt) == (3, 17)


@given(anything)
def test_whatever_lies_among_the_letters_is_read(foreign: Record) -> None:
    letter = letters.read_letter(foreign)
    assert letter is not None
    assert letter.record is foreign
    assert letters.receipt_for(foreign) is None


NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def prediction(**changes: Any) -> bytes:
    """A message of the predictions topic."""
    fields: dict[str, Any] = {
        "id": "a",
        "label_predicted": 3,
        "confidence": 0.123456789,
        "label": 3,
        "offset": 42,
        "produced_at": 1_700_000_000_000,
    } | changes
    source = Record("cifar.images", 1, fields["offset"], fields["produced_at"], None, None, ())
    batch = Decoded(GREY[None], np.array([fields["label"]]), [fields["id"]], [source])
    encode = codecs.PredictionEncoder(NAMES, 7, "ab" * 32)
    guess, confidence = np.array([fields["label_predicted"]]), np.array([fields["confidence"]], np.float32)
    (value,) = encode(batch, guess, confidence, 1_700_000_000_005)
    return value


def test_prediction_on_the_wire() -> None:
    assert json.loads(prediction()) == {
        "id": "a",
        "label_predicted": 3,
        "class": "cat",
        "confidence": 0.123457,
        "label": 3,
        "correct": True,
        "model_version": 7,
        "model_sha256": "ab" * 32,
        "source": {"partition": 1, "offset": 42},
        "produced_at": 1_700_000_000_000,
        "predicted_at": 1_700_000_000_005,
    }
    assert json.loads(prediction(label=4))["correct"] is False


def test_without_a_label_nothing_is_correct_or_wrong() -> None:
    body = json.loads(prediction(label=-1, produced_at=-1))
    assert (body["label"], body["correct"], body["produced_at"]) == (None, None, None)


@given(ids, st.integers(0, 9), st.integers(-1, 9), st.floats(0, 1, width=32), st.integers(0, 2**60))
def test_predictions_come_back(id: str, guess: int, label: int, confidence: float, offset: int) -> None:
    back = codecs.decode_prediction(
        prediction(id=id, label_predicted=guess, label=label, confidence=confidence, offset=offset)
    )
    known = None if label < 0 else label
    assert (back.id, back.label_predicted, back.label, back.offset) == (id, guess, known, offset)
    assert back.correct == (None if known is None else label == guess)
    assert back.confidence == pytest.approx(confidence, abs=1e-6)
    assert (back.class_name, back.model_version, back.partition) == (NAMES[guess], 7, 1)


@pytest.mark.parametrize("confidence", [float("nan"), float("inf")])
def test_a_confidence_that_is_none_is_not_written(confidence: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        prediction(confidence=confidence)


@pytest.mark.parametrize(
    "change",
    [
        {"id": 5},
        {"label_predicted": True},
        {"label_predicted": None},
        {"confidence": "high"},
        {"confidence": 2},
        {"label": "3"},
        {"correct": 1},
        {"source": None},
        {"source": {"partition": 1}},
        {"predicted_at": 1.5},
        {"produced_at": "now"},
    ],
)
def test_nonsense_is_no_prediction(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="prediction"):
        codecs.decode_prediction(json.dumps({**json.loads(prediction()), **change}).encode())


@given(st.none() | st.binary(max_size=30))
def test_bytes_are_no_prediction(value: bytes | None) -> None:
    with pytest.raises(ValueError, match="prediction"):
        codecs.decode_prediction(value)
