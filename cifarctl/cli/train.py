"""``cifarctl train``."""

from typing import Annotated

import typer

from cifarctl.cli.command import INTERRUPTED, Run, command
from cifarctl.cli.data import load_data


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "train")(train)


def train(
    run: Run,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Architecture: net, net-bn, torchvision:NAME or your.module:NAME.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Train on all images, validation and stream included.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the interrupted run of the same options.")] = False,
    promote: Annotated[
        bool | None, typer.Option("--promote/--no-promote", help="Force the promotion, or forbid it.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order and augmentation.")] = None,
) -> None:
    """Train a model offline and register it as a version."""
    settings = run.settings({"train.epochs": epochs, "train.model": model, "train.seed": seed})
    from cifarctl.events import TrainResult
    from cifarctl.flows.train import train as train_flow
    from cifarctl.registry import Registry
    from cifarctl.ui.plots import training_pictures
    from cifarctl.ui.train import TrainView, train_summary

    dataset, split = load_data(run, settings.data)
    with run.signals() as stop:
        stream = train_flow(
            dataset,
            split,
            Registry(settings.registry.trusting(settings.train.model)),
            settings.train,
            settings.data,
            full=full,
            resume=resume,
            promote=promote,
            stop=stop,
            illustrate=training_pictures,
        )
        result = run.output.drain(stream, TrainView())
        if isinstance(result, TrainResult):
            run.output.result(result, train_summary(result))
        elif stop.is_set():
            raise typer.Exit(INTERRUPTED)
