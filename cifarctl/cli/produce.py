"""``cifarctl produce``."""

from contextlib import suppress
from typing import Annotated

import typer

from cifarctl.cli.command import Run, command
from cifarctl.cli.data import load_data


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "produce")(produce)


def produce(
    run: Run,
    rate: Annotated[float | None, typer.Option(help="Messages per second; 0 = unlimited.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after this many messages.")] = None,
    format: Annotated[str | None, typer.Option(help="Wire format: raw, json or png.")] = None,
    drift: Annotated[
        str,
        typer.Option(metavar="SCENARIO", help="A preset, or operation[:strength]@start-end, comma-separated."),
    ] = "",
    unlabelled: Annotated[float | None, typer.Option(help="Fraction of images sent without their label.")] = None,
    label_delay: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Delay of labels, which then go to the labels topic; 0 = with the image."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed for order, drift and withheld labels.")] = None,
) -> None:
    """Send the images of the stream split to the images topic, optionally with drift.

    \f
    Long because its signature is the list of its options.
    """
    settings = run.settings(
        {
            "produce.rate": rate,
            "produce.format": format,
            "produce.unlabelled": unlabelled,
            "produce.label_delay": label_delay,
            "produce.seed": seed,
        }
    )
    from cifarctl.data import Scenario
    from cifarctl.stream import clients

    scenario = Scenario.parse(drift)
    clients.check(settings.kafka)  # before the heavy imports, so that a missing broker is reported at once
    from cifarctl.errors import RegistryError
    from cifarctl.events import ProduceResult
    from cifarctl.flows.produce import produce as produce_flow
    from cifarctl.registry import Registry
    from cifarctl.ui.produce import ProduceView, produce_summary

    dataset, split = load_data(run, settings.data)
    registry = Registry(settings.registry)
    with suppress(RegistryError):  # produce works without a registry
        alias = registry.alias(settings.serve.alias)
        if alias is not None and "stream" in registry.manifest(alias.version).split.seen:
            run.output.warn(
                f"note: {alias.name} is version {alias.version}, which was trained on the stream images; "
                "its accuracy on this stream overstates its accuracy on new images"
            )
    pace = settings.produce.rate
    delay = max(settings.produce.label_delay, scenario.latest / pace if pace else 0.0)
    if delay > settings.online.label_wait:
        run.output.warn(
            f"note: labels are delayed by {delay:g} s, but serve and retrain keep images for only "
            f"{settings.online.label_wait:g} s; raise online.label_wait there"
        )
    with run.signals() as stop:
        stream = produce_flow(
            dataset.train.take(split.stream),
            len(dataset.classes),
            settings.kafka,
            settings.produce,
            settings.serve,
            count=count,
            drift=scenario,
            stop=stop,
        )
        result: ProduceResult | None = None
        try:
            for event in run.output.show(stream, ProduceView()):
                if isinstance(event, ProduceResult):
                    result = event
        finally:  # report the number of failures before the error itself
            if result is not None:
                run.output.result(result, produce_summary(result))
