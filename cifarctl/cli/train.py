"""``cifarctl train``."""

import time
from enum import Enum
from typing import Annotated

import typer

from cifarctl.cli.command import INTERRUPTED, Run, command
from cifarctl.cli.data import load_data


class Log(str, Enum):
    """Formats of additional metrics."""

    tensorboard = "tensorboard"


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "train")(train)


def train(
    run: Run,
    epochs: Annotated[int | None, typer.Option(help="Number of passes over the training images.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Architecture: net, net-bn, airbench, torchvision:NAME or your.module:NAME.")
    ] = None,
    target_accuracy: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="Stop once validation accuracy reaches this; exit with 6 if it never does."
        ),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Train on all images, validation and stream included.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the interrupted run with the same options.")] = False,
    promote: Annotated[bool | None, typer.Option("--promote/--no-promote", help="Force or forbid promotion.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order and augmentation.")] = None,
    log: Annotated[Log | None, typer.Option(help="Also write metrics for TensorBoard.")] = None,
) -> None:
    """Train a model offline and register it as a version.

    \f
    Long because its signature is the list of its options.
    """
    settings = run.settings(
        {
            "train.epochs": epochs,
            "train.model": model,
            "train.target_accuracy": target_accuracy,
            "train.seed": seed,
        }
    )
    from cifarctl import settings as settings_module
    from cifarctl.errors import QualityGateError
    from cifarctl.events import TrainResult
    from cifarctl.flows.train import train as train_flow
    from cifarctl.models import memory
    from cifarctl.ui.output import Output
    from cifarctl.ui.plots import training_pictures
    from cifarctl.ui.tensorboard import recorded, require
    from cifarctl.ui.train import TrainView, train_summary

    if log is not None:
        require()
    launch = settings_module.Launch.present()
    if launch is not None and launch.rank:
        run.output = Output(quiet=True)  # only rank 0 prints
    memory.keep_freed()
    dataset, _ = load_data(run, settings.data)
    with run.signals() as stop:
        stream = train_flow(
            dataset,
            settings,
            full=full,
            resume=resume,
            promote=promote,
            stop=stop,
            illustrate=training_pictures,
            launch=launch,
        )
        if log is not None and (launch is None or not launch.rank):
            folder = settings.registry.dir / "tensorboard" / f"{time.strftime('%Y%m%d-%H%M%S')}-{settings.train.seed}"
            stream = recorded(stream, folder)
            run.output.say(f"to see the metrics: tensorboard --logdir {folder.parent}")
        result = run.output.drain(stream, TrainView())
        if isinstance(result, TrainResult):
            run.output.result(result, train_summary(result))
            if result.target_reached is False and launch is None:  # torchrun would restart a failed process
                raise QualityGateError(
                    f"validation accuracy is below train.target_accuracy = {settings.train.target_accuracy:g} "
                    f"after {result.epochs} epochs"
                )
        elif stop.is_set():
            raise typer.Exit(INTERRUPTED)
