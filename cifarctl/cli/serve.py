"""``cifarctl serve``."""

from pathlib import Path
from typing import Annotated

import typer

from cifarctl.cli.command import Run, command


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "serve")(serve)


def serve(
    run: Run,
    online: Annotated[
        bool, typer.Option("--online", help="Also learn from labelled images, in a separate process.")
    ] = False,
    max_messages: Annotated[int | None, typer.Option(min=1, help="Stop after this many inputs.")] = None,
    idle_timeout: Annotated[
        float | None, typer.Option(min=0.0, help="Stop after this many seconds without a new message.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="POSITION",
            help="Move the group before reading: beginning, end, a time (2h, 2026-01-31T12:00), an offset, "
            "or PARTITION:OFFSET,...",
        ),
    ] = None,
    group: Annotated[str | None, typer.Option(help="Consumer group; a new one starts at the earliest message.")] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="File created once the model is loaded and the topic subscribed.")
    ] = None,
    print_images: Annotated[
        bool, typer.Option("--print", help="Print one line per image instead of the dashboard.")
    ] = False,
) -> None:
    """Predict the images of the stream in real time.

    \f
    Long because its signature is the list of its options.
    """
    settings = run.settings({"kafka.group_id": group})
    from cifarctl.stream import clients, rights
    from cifarctl.stream.positions import Start, move

    place = None if start is None else Start.parse(start)
    clients.check(settings.kafka)  # before the heavy imports, so that a missing broker is reported at once
    if place is not None:
        images = clients.Topics.of(settings.kafka.topic_prefix).images
        rights.ensure_topics(settings.kafka, {images: ["Read"]})
        offsets = move(settings.kafka, images, place)
        where = ", ".join(f"{number}: {offset:,}" for number, offset in sorted(offsets.items()))
        run.output.say(f"group {settings.kafka.group_id} starts at {where}")
    from cifarctl.events import ServeResult
    from cifarctl.flows.serve import serve as serve_flow
    from cifarctl.ui.serve import ServeView, serve_summary

    if print_images:
        run.output.live = False
    with run.signals() as stop:
        stream = serve_flow(
            settings,
            online=online,
            max_messages=max_messages,
            idle_timeout=idle_timeout,
            ready_file=ready_file,
            stop=stop,
        )
        result = run.output.drain(stream, ServeView(print_images=print_images))
        if isinstance(result, ServeResult):
            run.output.result(result, serve_summary(result))
