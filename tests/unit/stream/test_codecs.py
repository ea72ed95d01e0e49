"""Wire formats: round trips, the tutorial's message, and what becomes of every kind of bad input."""

from __future__ import annotations

import base64
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, features
from wire import CLASSES, HALF, PHOTO, area_means, channel, chunk, decode, file, floats, ids, message, png, record

from cifarctl.stream import codecs, pictures
from cifarctl.stream.records import Record

images = hnp.arrays(np.uint8, (3, 32, 32))


@given(images, ids, st.none() | st.integers(0, 9))
def test_raw_comes_back(pixels: np.ndarray, id: str, label: int | None) -> None:
    sent = Record("t", 0, 0, 1, None, codecs.encode_raw(pixels), tuple(codecs.headers_for("raw", id, label)))
    good, bad = decode(sent)
    assert not bad
    assert np.array_equal(good.pixels, pixels[None])
    assert good.labels.tolist() == [-1 if label is None else label]
    assert good.ids == [id]
    assert good.records == [sent]


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


def test_a_producers_rounding_is_not_an_error() -> None:
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
