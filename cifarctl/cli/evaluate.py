"""``cifarctl eval``."""

from pathlib import Path
from typing import Annotated

import typer

from cifarctl.cli.command import Run, command
from cifarctl.cli.data import load_data


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "eval")(evaluate)


def evaluate(
    run: Run,
    version: Annotated[str, typer.Option(help="A version number, an alias, or latest.")] = "production",
    min_accuracy: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Exit with 6 when the accuracy is lower.")
    ] = None,
    confusion: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Where to draw the confusion matrix.")
    ] = None,
) -> None:
    """Measure a version on the test images: accuracy, calibration, every class, confusion."""
    settings = run.settings()
    from cifarctl.errors import QualityGateError
    from cifarctl.flows.evaluate import evaluate_version
    from cifarctl.registry import Registry
    from cifarctl.ui.plots import draw_confusion
    from cifarctl.ui.tables import evaluation

    registry = Registry(settings.registry)
    number = registry.resolve(version)  # before the images are loaded, which takes longer
    dataset, _ = load_data(run, settings.data)
    seen = registry.manifest(number).split.seen
    if "stream" in seen:
        run.output.warn(
            f"note: version {number} was trained on {', '.join(seen)} images; the test images are still new"
        )
    result = evaluate_version(registry, number, dataset)
    if confusion is not None:
        draw_confusion(result, confusion)
        run.output.say(f"confusion matrix drawn in {confusion}")
    run.output.result(result, evaluation(result))
    if min_accuracy is not None and result.accuracy < min_accuracy:
        raise QualityGateError(
            f"version {result.version} has accuracy {result.accuracy:.4f}, below --min-accuracy {min_accuracy:g}"
        )
