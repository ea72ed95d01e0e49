"""Text from outside, made fit for a terminal or a page: ids, class names, reasons, error messages, file names."""

from __future__ import annotations

# Letters by category, and yet nothing is seen of them: fillers of Hangul, and a joiner of graphemes.
INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
# What Python decodes a byte to that is no UTF-8, in file names and arguments: PEP 383.
BYTES = range(0xDC80, 0xDD00)


def printable(text: str) -> str:
    r"""`text` on one line, with nothing in it that steers a terminal or cannot be seen.

    Control characters (C0, C1, line breaks), controls of the writing direction, characters without width and lone
    surrogates become escapes: ``\n``, ``\x1b``, ``\u202e``; a byte that is no UTF-8 becomes ``\xff``. What has been
    escaped stays as it is.

    >>> printable("a\nb\x1b[31m")
    'a\\nb\\x1b[31m'
    """
    if text.isprintable() and INVISIBLE.isdisjoint(text):
        return text
    return "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable() and character not in INVISIBLE:
        return character
    if ord(character) in BYTES:
        return f"\\x{ord(character) - 0xDC00:02x}"
    if ord(character) in range(0x80, 0x100):  # `unicode_escape` would write it like a byte
        return f"\\u{ord(character):04x}"
    return character.encode("unicode_escape").decode("ascii")
