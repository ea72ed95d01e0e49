"""Standard streams as strangers hand them over: closed, of a narrow encoding, or with a reader that goes away."""

import codecs
import os
import sys
from typing import TextIO

#: Our own signs, for streams that cannot write them. One character each: tables and dashboards keep their shape.
PLAIN = str.maketrans("–→…×±█░▁▂▃▄▅▆▇", "->.x~#.__--==+")
DEGRADE = "cifarctl.degrade"


def prepare() -> None:
    """Open what is closed, and let every stream write any text; once, before anything is written."""
    _fill()
    codecs.register_error(DEGRADE, _degrade)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=DEGRADE)


def abandon(stream: TextIO) -> None:
    """Send to nowhere what `stream` still holds: its reader has gone, and the interpreter would complain at its end."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, stream.fileno())
    finally:
        os.close(devnull)


def flush() -> OSError | None:
    """Write out what is buffered; what prevented it, other than a reader that has gone."""
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
    """What to tell of output that did not arrive."""
    return f"the output cannot be written: {error.strerror}"


def _fill() -> None:
    """Take the numbers 0 to 2 where they are free (``>&-``), or the next file that is opened would be written to."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _degrade(error: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler of `codecs`: our own signs become plain ones, other characters escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(PLAIN)
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end
