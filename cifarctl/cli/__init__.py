"""The command line. One thin file a command; heavy imports happen inside them."""

import typer

from cifarctl.cli import broker, config, demo, doctor, evaluate, produce, registry, retrain, serve, train

app = typer.Typer(
    name="cifarctl",
    help="Online machine learning on CIFAR-10 image streams over Apache Kafka.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (train, produce, serve, retrain, evaluate, registry, broker, demo, doctor, config):
    module.register(app)


def main() -> None:
    """Entry point of the ``cifarctl`` command."""
    app()
