"""``cifarctl eval``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifarctl.cli.command import INTERRUPTED, Run, command
from cifarctl.cli.data import load_data

if TYPE_CHECKING:
    from cifarctl.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "eval")(evaluate)


def evaluate(
    run: Run,
    version: Annotated[str, typer.Option(help="A version number, an alias, or latest.")] = "production",
    min_accuracy: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Exit with 6 if the accuracy is lower.")
    ] = None,
    confusion: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="File for a plot of the confusion matrix.")
    ] = None,
    stream: Annotated[
        str | None,
        typer.Option(
            metavar="SCENARIO",
            help="Evaluate test-then-train over a drifting stream: a preset, or a scenario as in produce.",
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="With --stream: strategies to compare, comma-separated; default frozen,online,oracle."
        ),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="With --stream: runs of each strategy; default one.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="With --stream: number of images; default all.")] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="With --stream: images per second; updates take effect with the delay of a live run."
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="With --stream: write figures and tables to one file.")
    ] = None,
) -> None:
    """Evaluate a version on the test images, or online-learning strategies over a drifting stream.

    \f
    Long because its signature is the list of its options.
    """
    settings = run.settings()
    from cifarctl.errors import QualityGateError, SettingsError

    if stream is not None:
        if min_accuracy is not None or confusion is not None:
            raise SettingsError("--min-accuracy and --confusion cannot be combined with --stream: leave them out")
        _evaluate_stream(run, settings, version, stream, compare, seeds or 1, images, rate, report)
        return
    if any(option is not None for option in (compare, seeds, images, rate, report)):
        raise SettingsError("--compare, --seeds, --images, --rate and --report require --stream")
    from cifarctl.flows.evaluate import evaluate as evaluate_flow
    from cifarctl.flows.evaluate import keep_validation_images
    from cifarctl.registry import Registry
    from cifarctl.registry.loading import load
    from cifarctl.ui.plots import draw_confusion
    from cifarctl.ui.tables import evaluation

    registry = Registry(settings.registry)
    number = registry.resolve(version)  # fails fast, before the images are loaded
    dataset, _ = load_data(run, settings.data)
    seen = registry.manifest(number).split.seen
    if "stream" in seen:
        run.output.warn(f"note: version {number} was trained on {', '.join(seen)} images, but not on the test images")
    model = load(registry, number)
    result = evaluate_flow(model, dataset)
    keep_validation_images(registry, model.manifest.split, dataset)
    if confusion is not None:
        draw_confusion(result, confusion)
        run.output.say(f"confusion matrix written to {confusion}")
    run.output.result(result, evaluation(result))
    if min_accuracy is not None and result.accuracy < min_accuracy:
        raise QualityGateError(
            f"version {result.version} has accuracy {result.accuracy:.4f}, below --min-accuracy {min_accuracy:g}"
        )


def _evaluate_stream(
    run: Run,
    settings: "Settings",
    version: str,
    stream: str,
    compare: str | None,
    seeds: int,
    images: int | None,
    rate: float | None,
    report: Path | None,
) -> None:
    from cifarctl.data import Scenario
    from cifarctl.ui.report import require_page, write_report

    scenario = Scenario.parse(stream)  # fails fast, before anything is loaded
    if report is not None:
        require_page(report)

    from cifarctl.events import StreamResult
    from cifarctl.flows.stream_evaluation import COMPARED, evaluate_stream
    from cifarctl.models import memory, threads
    from cifarctl.registry import Registry
    from cifarctl.registry.loading import load
    from cifarctl.ui.contest import ContestView, contest_tables

    threads.use(settings.online.threads)  # as the live learner; more threads would busy-wait on shared cores
    memory.keep_freed()
    compared = list(dict.fromkeys(name.strip() for name in compare.split(","))) if compare else COMPARED
    model = load(Registry(settings.registry), version)
    dataset, _ = load_data(run, settings.data)
    with run.signals() as stop:
        contest = evaluate_stream(
            model, dataset, scenario, settings, compare=compared, seeds=seeds, images=images, rate=rate, stop=stop
        )
        result = run.output.drain(contest, ContestView())
    if not isinstance(result, StreamResult):  # interrupted
        raise typer.Exit(INTERRUPTED)
    if report is not None:
        write_report(result, report)
        run.output.say(f"report written to {report}")
    run.output.result(result, contest_tables(result))
