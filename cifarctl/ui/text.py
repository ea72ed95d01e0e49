"""Escape untrusted text for a terminal or a page: ids, class names, reasons, error messages, file names."""

from __future__ import annotations

# Invisible characters that Unicode counts as letters or marks: Hangul and Khmer fillers, the grapheme joiner.
INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
# Surrogates by which Python represents non-UTF-8 bytes in file names and arguments (PEP 383).
BYTES = range(0xDC80, 0xDD00)


def printable(text: str) -> str:
    r"""`text` on one line, without control sequences or invisible characters.

    Control characters (C0, C1, line breaks), bidirectional controls, zero-width characters and lone surrogates become
    escapes: ``\n``, ``\x1b``, ``\u202e``. A byte that is not UTF-8 becomes ``\xff``. Escaping twice changes nothing.

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
    if ord(character) in range(0x80, 0x100):  # `unicode_escape` would write it as a byte, \x85
        return f"\\u{ord(character):04x}"
    return character.encode("unicode_escape").decode("ascii")
