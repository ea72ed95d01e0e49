"""Robust standard streams: they may be closed, have a narrow encoding, or lose their reader."""

import codecs
import os
import sys
from typing import TextIO

#: ASCII replacements for our own symbols, one character each so that tables and dashboards keep their layout.
PLAIN = str.maketrans("–→…×±█░▁▂▃▄▅▆▇", "->.x~#.__--==+")
DEGRADE = "cifarctl.degrade"


def prepare() -> None:
    """Reopen closed streams and let every stream encode any text; call once, before any output."""
    _reopen()
    codecs.register_error(DEGRADE, _degrade)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=DEGRADE)


def abandon(stream: TextIO) -> None:
    """Redirect `stream` to the null device, as its reader has gone; the interpreter's flush at exit would fail."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, stream.fileno())
    finally:
        os.close(devnull)


def flush() -> OSError | None:
    """Flush stdout and stderr; the error if that failed, other than by a reader that has gone."""
    failure = None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            abandon(stream)
            if not isinstance(error, BrokenPipeError):
                failure = error
    return failure


def lost(error: OSError) -> str:
    """The error message for lost output."""
    return f"cannot write the output: {error.strerror}"


def _reopen() -> None:
    """Occupy file descriptors 0 to 2 if closed (``>&-``): the next opened file would get one, and receive output."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _degrade(error: UnicodeError) -> tuple[str | bytes, int]:
    """A `codecs` error handler: our own symbols become ASCII ones, other characters become escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(PLAIN)
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end
