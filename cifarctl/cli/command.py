"""Common parts of all commands: shared options, settings, signals, and error handling."""

import errno
import functools
import inspect
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cifarctl.cli import streams
from cifarctl.errors import CifarctlError, SettingsError
from cifarctl.ui.text import printable

if TYPE_CHECKING:
    from cifarctl.settings import Settings
    from cifarctl.ui.output import Output

INTERRUPTED = 130
SHOW_CURSOR = b"\x1b[?25h\n"
STOPPING = (signal.SIGINT, signal.SIGTERM)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, everything else on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors and warnings only.")]
NoDashboard = Annotated[bool, typer.Option("--no-dashboard", help="Print plain log lines instead of a live dashboard.")]
Assign = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override any setting; repeatable."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


class Stop(threading.Event):
    """Set by the first SIGINT or SIGTERM; a second one exits immediately."""

    interrupted = False

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        if self.is_set():
            _leave_at_once()
        self.interrupted = number == signal.SIGINT
        self.set()


class Run:
    """One invocation of a command: its output, its settings, its signals."""

    def __init__(self, output: "Output", assignments: list[str]) -> None:
        self.output = output
        self._assignments = assignments

    def overrides(self, options: dict[str, Any] | None = None) -> dict[str, Any]:
        """Settings by dotted name from ``--set`` and the command's own options; an option of None was not given."""
        from cifarctl import settings

        given: dict[str, Any] = dict(map(settings.parse_assignment, self._assignments))
        return given | {name: value for name, value in (options or {}).items() if value is not None}

    def settings(self, options: dict[str, Any] | None = None) -> "Settings":
        """The effective settings, with `options` taking precedence.

        Raises:
            SettingsError: a name is unknown or a value is not allowed.
        """
        from cifarctl import settings

        return settings.load(self.overrides(options))

    @contextmanager
    def signals(self) -> Iterator[Stop]:
        """A `Stop` that SIGINT and SIGTERM set while the block runs; exits with 130 after SIGINT."""
        stop = Stop()
        before = {number: signal.signal(number, stop.handle) for number in STOPPING}
        try:
            with _exit_on_second_signal():
                yield stop
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if stop.interrupted:
            raise typer.Exit(INTERRUPTED)


def command(app: typer.Typer, name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register ``function(run, ...)`` as a command of `app`, with the common options added to its own."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
        def wrapper(
            *,
            as_json: Json = False,
            quiet: Quiet = False,
            no_dashboard: NoDashboard = False,
            assign: Assign = None,
            debug: Debug = False,
            **options: Any,
        ) -> None:
            from cifarctl.ui.output import Output

            with _errors(debug):
                _check(spellings, options)
                output = Output(as_json=as_json, quiet=quiet, dashboard=not no_dashboard)
                function(Run(output, assign or []), **{name: _at_home(value) for name, value in options.items()})

        # Typer reads the signature: the command's own parameters first, then the common ones.
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        spellings = {parameter.name: _spelling(parameter) for parameter in own}
        common = inspect.Signature.from_callable(wrapper, follow_wrapped=False).parameters.values()
        parameters = own + [p for p in common if p.kind is p.KEYWORD_ONLY]
        keyword = [p.replace(kind=p.KEYWORD_ONLY) for p in parameters]
        wrapper.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        app.command(name)(wrapper)
        return function

    return register


def _spelling(parameter: inspect.Parameter) -> str:
    """The name of an option or argument on the command line, such as ``--from``."""
    for note in getattr(parameter.annotation, "__metadata__", ()):
        if isinstance(note, typer.models.ArgumentInfo):
            return parameter.name.upper()
        if declared := getattr(note, "param_decls", ()):
            return str(declared[0])
    return f"--{parameter.name.replace('_', '-')}"


def _check(spellings: dict[str, str], options: dict[str, Any]) -> None:
    """Reject values that are invalid for any option; paths may hold any bytes.

    Raises:
        SettingsError: a number is not finite, or a text is not UTF-8.
    """
    for name, value in options.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, float) and not math.isfinite(item):
                raise SettingsError(f"{spellings[name]} {item}: expected a finite number")
            if isinstance(item, str) and not item.isascii():
                try:
                    item.encode()
                except UnicodeEncodeError:
                    raise SettingsError(f"{spellings[name]} {item}: expected UTF-8 text") from None


def _at_home(value: Any) -> Any:
    """`value` with ``~`` expanded if it is a path: shells do not expand it in ``--report=~/stream.html``."""
    if not isinstance(value, Path):
        return value
    from cifarctl.settings import at_home

    try:
        return at_home(value)
    except ValueError as error:
        raise SettingsError(f"{value}: {error}") from None


def _leave_at_once() -> NoReturn:
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), SHOW_CURSOR)  # a live dashboard hides it
    os._exit(INTERRUPTED)


@contextmanager
def _exit_on_second_signal() -> Iterator[None]:
    """Exit immediately at the second signal, even while the main thread blocks in a C library.

    Python runs signal handlers in the main thread after a blocking call returns, and a commit to a broker that hangs
    can block for minutes. The interpreter writes signal numbers to the wake-up file descriptor at once, so a thread
    that reads it can react.
    """
    import socket

    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def count() -> None:
        stops = 0
        while number := reader.recv(1):
            stops += number[0] in STOPPING
            if stops == 2:
                _leave_at_once()

    watcher = threading.Thread(target=count, name="signals", daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.close()
        watcher.join()
        reader.close()


@contextmanager
def _errors(debug: bool) -> Iterator[None]:
    """The only place that turns an exception into a line on stderr and an exit code."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except CifarctlError as error:
        _leave(error, str(error), error.exit_code, debug)
    except BrokenPipeError:  # the reader of stdout has closed it, as in `| head`
        streams.abandon(sys.stdout)
        raise typer.Exit(0) from None
    except OSError as error:
        _leave(error, _os_message(error), 1, debug)
    except Exception as error:  # noqa: BLE001
        _leave(error, f"unexpected {type(error).__name__}: {error}; run with --debug for a traceback", 1, debug)


def _os_message(error: OSError) -> str:
    place = f" {error.filename}" if error.filename else ""
    if error.errno == errno.ENOSPC and not place:
        return streams.lost(error)
    if error.errno == errno.ENOSPC:
        return f"no disk space left for{place}; free some space and try again (no partial file was kept)"
    return f"{error.strerror or error}{':' + place if place else ''}"


def _leave(error: BaseException, message: str, code: int, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exception(error)
    line = printable(" ".join(message.split()))
    with suppress(BrokenPipeError):  # the exit code still reports the error
        sys.stderr.write(f"cifarctl: {line}\n")
    raise typer.Exit(code) from None
