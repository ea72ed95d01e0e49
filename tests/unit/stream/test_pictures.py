"""Pictures of any format, mode and size become images; those that could do harm become dead letters."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image, ImageOps
from wire import GREY, HALF, PHOTO, area_means, chunk, damaged, decode, file, png, record

from cifarctl.stream import codecs, pictures
from cifarctl.stream.records import Record


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
def test_white_shows_through_transparent_pixels(mode: str, size: tuple[int, int]) -> None:
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
