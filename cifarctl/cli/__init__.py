"""The command line: one thin module per command; heavy imports happen inside the commands."""

import sys
from typing import Annotated

import typer

from cifarctl import __version__
from cifarctl.cli import (
    broker,
    config,
    dead_letters,
    demo,
    doctor,
    evaluate,
    produce,
    registry,
    retrain,
    serve,
    streams,
    train,
    verify_stream,
)

app = typer.Typer(
    name="cifarctl",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cifarctl {__version__}")
        raise typer.Exit


@app.callback()
def cifarctl(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Online machine learning on CIFAR-10 image streams over Apache Kafka."""


for module in (
    train,
    produce,
    serve,
    retrain,
    evaluate,
    registry,
    dead_letters,
    verify_stream,
    broker,
    demo,
    doctor,
    config,
):
    module.register(app)


def main() -> None:
    """Entry point of the ``cifarctl`` command."""
    streams.prepare()
    failure: OSError | None = None
    try:
        app()
    except OSError as error:  # when typer itself writes, as for --help
        failure = error
    finally:
        failure = streams.flush() or failure
        if failure is not None:  # lost output is a failure
            sys.stderr.write(f"cifarctl: {streams.lost(failure)}\n")
            sys.exit(1)
