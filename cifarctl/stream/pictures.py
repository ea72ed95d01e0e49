"""PNG and JPEG of any size to 32 x 32 pixels, from bytes that nobody vouches for.

Of a file only what holds pixels reaches the decoder: profiles, texts, Exif, thumbnails and further frames, where
decoders have had most of their holes and where a few bytes inflate to many, are cut away before. So are the limits
checked: the dimensions, the number of parts, and the scans of a progressive JPEG, each a pass over the whole picture.

A picture is converted to RGB (transparency is dropped, 16 bits become 8, an orientation tag is not followed) and
resized to 32 x 32, whatever its proportions, by a box filter: every pixel is the mean of the area that it covers.
"""

from __future__ import annotations

import io
import re
import struct

import numpy as np
from PIL import Image, UnidentifiedImageError

from cifarctl.stream.records import SIDE, Pixels, Refused

#: Longest side of a picture in pixels, so at most 16 Mi of them; 67 MB while it is decoded.
MAX_SIDE = 4096
#: Cameras and tools write about ten.
MAX_SCANS = 32
#: Chunks of a PNG or segments of a JPEG: 80 MB of the 8 kB that are usual, and no million of empty ones.
MAX_PARTS = 10_000

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"

_PIXEL_CHUNKS = {b"PLTE", b"IDAT", b"IEND"}
_IHDR_END = 8 + 12 + 13
_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_START_OF_SCAN = 0xDA
#: Start of frame, with the dimensions; 0xC4, 0xC8 and 0xCC among them mean something else.
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
#: Application data and comments, but for JFIF (0xE0) and Adobe (0xEE), which say how colours are coded.
_EXTRAS = {*range(0xE1, 0xEE), 0xEF, 0xFE}


def decode_png(value: bytes) -> bytes:
    """The 3,072 bytes of the picture, (3, 32, 32) uint8.

    Raises:
        Refused: it is no PNG, damaged, or too large.
    """
    return _pixels("PNG", _bare_png(value))


def decode_jpeg(value: bytes) -> bytes:
    """The 3,072 bytes of the picture, (3, 32, 32) uint8.

    Raises:
        Refused: it is no JPEG, damaged, or too large.
    """
    return _pixels("JPEG", _bare_jpeg(value))


def encode_png(pixels: Pixels) -> bytes:
    """A PNG of one image, (3, 32, 32) uint8."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(file, "PNG")
    return file.getvalue()


def _bare_png(value: bytes) -> bytes:
    """The file without its ancillary chunks, and without a second header, which could change the dimensions."""
    if not value.startswith(PNG_MAGIC) or value[12:16] != b"IHDR" or len(value) < _IHDR_END:
        raise _broken("PNG", "it does not begin as one")
    _check_size(*struct.unpack_from(">II", value, 16))
    parts, at = [value[:_IHDR_END]], _IHDR_END
    for _ in range(MAX_PARTS):
        if at + 12 > len(value):
            return b"".join(parts)
        length, kind = struct.unpack_from(">I4s", value, at)
        end = at + 12 + length
        if kind in _PIXEL_CHUNKS:
            parts.append(value[at:end])
        if kind == b"IEND":
            return b"".join(parts)
        at = end
    raise Refused("PictureTooLarge", f"the PNG has more than {MAX_PARTS} chunks")


def _bare_jpeg(value: bytes) -> bytes:
    """The file without application data and comments."""
    parts, at, frames = [b"\xff\xd8"], 2, 0
    if not value.startswith(JPEG_MAGIC):
        raise _broken("JPEG", "it does not begin as one")
    for _ in range(MAX_PARTS):
        if (found := _MARKER.match(value, at)) is None:
            break
        marker, at = found.group(1)[0], found.end()
        length = int.from_bytes(value[at : at + 2], "big")
        if length < 2 or at + length > len(value):
            break
        if marker in _FRAMES and length >= 8:
            height, width = struct.unpack_from(">HH", value, at + 3)
            _check_size(width, height)
            frames += 1
        if marker == _START_OF_SCAN:
            if frames != 1:
                break
            if value.count(b"\xff\xda", at) >= MAX_SCANS:
                raise Refused("PictureTooLarge", f"the JPEG has more than {MAX_SCANS} scans")
            return b"".join([*parts, b"\xff\xda", value[at:]])
        if marker not in _EXTRAS:
            parts += [b"\xff", found.group(1), value[at : at + length]]
        at += length
    else:
        raise Refused("PictureTooLarge", f"the JPEG has more than {MAX_PARTS} segments")
    raise _broken("JPEG", "its segments are damaged or cut off")


def _check_size(width: int, height: int) -> None:
    if max(width, height) > MAX_SIDE:
        raise Refused(
            "PictureTooLarge", f"the picture has {width} x {height} pixels; at most {MAX_SIDE} a side are decoded"
        )
    if min(width, height) == 0:
        raise Refused("BadPicture", f"the picture has {width} x {height} pixels")


def _pixels(format: str, file: bytes) -> bytes:
    try:
        image: Image.Image = Image.open(io.BytesIO(file), formats=[format])
        if format == "JPEG":
            image.draft("RGB", (4 * SIDE, 4 * SIDE))  # photographs are shrunk while they are decoded: much faster
        if image.mode.startswith("I"):  # 16-bit grey, which convert would clip instead of scale
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        image = image.convert("RGB")
        if image.size != (SIDE, SIDE):
            image = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    except UnidentifiedImageError:  # its text names an object of this process
        raise _broken(format, "its header is damaged") from None
    except Exception as error:  # noqa: BLE001  damaged files make Pillow raise nearly every class there is
        raise _broken(format, f"{type(error).__name__}: {error}") from None
    return np.asarray(image).transpose(2, 0, 1).tobytes()


def _broken(format: str, why: str) -> Refused:
    return Refused("BadPicture", f"the {format} cannot be decoded: {' '.join(why.split())[:200]}")
