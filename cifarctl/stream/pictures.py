"""PNG and JPEG of any size to 32 x 32 pixels, from untrusted bytes.

Only the parts of a file that hold pixels reach the decoder. Profiles, texts, Exif, thumbnails and further frames are
removed first: decoders have had most of their vulnerabilities there, and a few bytes can inflate to many. Limits are
checked first too: the dimensions, the number of parts, and the scans of a progressive JPEG, each of which is a pass
over the whole picture. Exif's orientation is read here and applied.

A picture is converted to RGB (grey in all three channels, 16 bits to 8, transparent areas to white) and resized to
32 x 32, whatever its proportions, by a box filter: every pixel is the mean of the area that it covers.
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
#: Chunks of a PNG or segments of a JPEG: enough for 80 MB in the usual 8 kB, but not a million empty ones.
MAX_PARTS = 10_000

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"

#: First bytes of other picture formats, only for error messages; BMP, with two letters, is checked more closely.
_OTHERS = {
    "GIF": re.compile(rb"GIF8[79]a"),
    "WebP": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
    "TIFF": re.compile(rb"II[*+]\0|MM\0[*+]"),
    "HEIF or AVIF": re.compile(rb"\0.{3}ftyp(?:avi[fs]|hei[cfmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL),
    "JPEG XL": re.compile(rb"\0\0\0\x0cJXL "),
    "JPEG 2000": re.compile(rb"\0\0\0\x0cjP  "),
    "BMP": re.compile(rb"BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL),
}
#: Possible first bytes of all these formats.
FIRST_BYTES = frozenset({PNG_MAGIC[:1], JPEG_MAGIC[:1], b"G", b"R", b"I", b"M", b"\0", b"B"})

_PIXEL_CHUNKS = {b"PLTE", b"IDAT", b"IEND"}
#: A transparent colour, or the opacities of the at most 256 colours of a palette.
_MAX_TRANSPARENCY = 256
_EXIF = b"Exif\0\0"
_ORIENTATION = 0x0112
_SHORT = 3
#: How to transform a picture by its Exif orientation; 1 and any other value: not at all.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_IHDR_END = 8 + 12 + 13
_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_START_OF_SCAN = 0xDA
_APP1 = 0xE1
#: Start of frame, with the dimensions; 0xC4, 0xC8 and 0xCC among them mean something else.
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
#: Application data and comments, except JFIF (0xE0) and Adobe (0xEE), which define the colour coding.
_EXTRAS = {*range(0xE1, 0xEE), 0xEF, 0xFE}


def kind(value: bytes) -> str | None:
    """The name of the picture format of `value`, by its first bytes; None if it is not a known one."""
    if value.startswith(PNG_MAGIC):
        return "PNG"
    if value.startswith(JPEG_MAGIC):
        return "JPEG"
    return next((name for name, magic in _OTHERS.items() if magic.match(value)), None)


def decode_png(value: bytes) -> bytes:
    """The 3,072 bytes of the picture, (3, 32, 32) uint8.

    Raises:
        Refused: it is not a PNG, damaged, or too large.
    """
    return _pixels("PNG", *_bare_png(value))


def decode_jpeg(value: bytes) -> bytes:
    """The 3,072 bytes of the picture, (3, 32, 32) uint8.

    Raises:
        Refused: it is not a JPEG, damaged, or too large.
    """
    return _pixels("JPEG", *_bare_jpeg(value))


def encode_png(pixels: Pixels) -> bytes:
    """A PNG of one image, (3, 32, 32) uint8."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(file, "PNG")
    return file.getvalue()


def _bare_png(value: bytes) -> tuple[bytes, int]:
    """The file without its ancillary chunks, except transparency; and its orientation.

    A second header, which could change the dimensions, is removed too.
    """
    if not value.startswith(PNG_MAGIC) or value[12:16] != b"IHDR" or len(value) < _IHDR_END:
        raise _broken("PNG", _otherwise(value))
    _check_size(*struct.unpack_from(">II", value, 16))
    parts, at, orientation = [value[:_IHDR_END]], _IHDR_END, 1
    for _ in range(MAX_PARTS):
        if at + 12 > len(value):
            return b"".join(parts), orientation
        length, name = struct.unpack_from(">I4s", value, at)
        end = at + 12 + length
        if name in _PIXEL_CHUNKS or (name == b"tRNS" and length <= _MAX_TRANSPARENCY):
            parts.append(value[at:end])
        if name == b"eXIf":
            orientation = _orientation(value[at + 8 : end - 4])
        if name == b"IEND":
            return b"".join(parts), orientation
        at = end
    raise Refused("PictureTooLarge", f"the PNG has more than {MAX_PARTS} chunks")


def _bare_jpeg(value: bytes) -> tuple[bytes, int]:
    """The file without application data and comments; its orientation."""
    parts, at, frames, orientation = [b"\xff\xd8"], 2, 0, 1
    if not value.startswith(JPEG_MAGIC):
        raise _broken("JPEG", _otherwise(value))
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
            return b"".join([*parts, b"\xff\xda", value[at:]]), orientation
        if marker == _APP1 and value.startswith(_EXIF, at + 2):
            orientation = _orientation(value[at + 2 + len(_EXIF) : at + length])
        if marker not in _EXTRAS:
            parts += [b"\xff", found.group(1), value[at : at + length]]
        at += length
    else:
        raise Refused("PictureTooLarge", f"the JPEG has more than {MAX_PARTS} segments")
    raise _broken("JPEG", "its segments are damaged or cut off")


def _orientation(exif: bytes) -> int:
    """Orientation 1 to 8 from the first directory of Exif data (a TIFF without a picture); 1 if it has none."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return 1
    (start,) = struct.unpack_from(order + "I", exif, 4)
    if start + 2 > len(exif):
        return 1
    (count,) = struct.unpack_from(order + "H", exif, start)
    for at in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, at)
        if tag == _ORIENTATION and kind == _SHORT:
            return int(value)
    return 1


def _check_size(width: int, height: int) -> None:
    if max(width, height) > MAX_SIDE:
        raise Refused(
            "PictureTooLarge", f"the picture has {width} x {height} pixels; at most {MAX_SIDE} a side are decoded"
        )
    if min(width, height) == 0:
        raise Refused("BadPicture", f"the picture has {width} x {height} pixels")


def _pixels(format: str, file: bytes, orientation: int) -> bytes:
    try:
        image: Image.Image = Image.open(io.BytesIO(file), formats=[format])
        if format == "JPEG":
            image.draft("RGB", (4 * SIDE, 4 * SIDE))  # scales photographs down while decoding: much faster
        if image.mode.startswith("I"):  # 16-bit grey, which convert would clip instead of scale
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        see_through = image.has_transparency_data
        # Colours must be multiplied by opacity before they are averaged.
        image = image.convert("RGBA").convert("RGBa") if see_through else image.convert("RGB")
        if image.size != (SIDE, SIDE):
            image = image.resize((SIDE, SIDE), Image.Resampling.BOX)
        if orientation in _TURNS:
            image = image.transpose(_TURNS[orientation])
    except UnidentifiedImageError:  # its message names an object of this process
        raise _broken(format, "its header is damaged") from None
    except Exception as error:  # noqa: BLE001  damaged files make Pillow raise almost any exception
        raise _broken(format, f"{type(error).__name__}: {error}") from None
    pixels = np.asarray(image)
    if see_through:  # over white; by rounding, averaged colours may exceed their opacity
        pixels = np.minimum(pixels[..., :3].astype(np.uint16) + (255 - pixels[..., 3:]), 255).astype(np.uint8)
    return pixels.transpose(2, 0, 1).tobytes()


def _otherwise(value: bytes) -> str:
    """The complaint about the first bytes, and the format they have instead, if known."""
    found = kind(value)
    return "it does not begin as one" + (f" but as {found}" if found else "")


def _broken(format: str, why: str) -> Refused:
    return Refused("BadPicture", f"the {format} cannot be decoded: {' '.join(why.split())[:200]}")
