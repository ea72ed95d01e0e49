"""``cifarctl broker``."""

from pathlib import Path
from typing import Annotated

import typer

from cifarctl.cli.command import Run, command

DEFAULT_PORT = 9092


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "broker")(broker)


def broker(
    run: Run,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port; 0 picks a free one. Default: 9092 if free, otherwise any free port."
        ),
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="File that receives host:port once the broker is ready.")
    ] = None,
) -> None:
    """Run the embedded broker until Ctrl-C: in memory, at-least-once, for trying things out."""
    from cifarctl.errors import BrokerError
    from cifarctl.settings import KafkaSettings
    from cifarctl.stream.embedded import EmbeddedBroker, port_is_free

    if port is None:
        port = DEFAULT_PORT if port_is_free(DEFAULT_PORT) else 0
    with run.signals() as stop, EmbeddedBroker(port or None) as embedded:
        address = embedded.bootstrap_servers
        run.output.say(
            f"broker at {address}: Tansu, Kafka-compatible, at-least-once, in memory (data is lost when it stops)"
        )
        if address != KafkaSettings().bootstrap_servers:
            run.output.say(f"export CIFARCTL_KAFKA__BOOTSTRAP_SERVERS={address}")
        run.output.say("press Ctrl-C to stop it")
        if ready_file is not None:
            ready_file.write_text(f"{address}\n")
        while not stop.wait(0.5):
            if not embedded.alive:
                raise BrokerError("the embedded broker stopped unexpectedly; start it again")
    run.output.result({"bootstrap_servers": address})
