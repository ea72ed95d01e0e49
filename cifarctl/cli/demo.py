"""``cifarctl demo``."""

import typer

from cifarctl.cli.command import INTERRUPTED, Run, command
from cifarctl.cli.data import load_data


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "demo")(demo)


def demo(run: Run) -> None:
    """Demonstrate the whole loop in a few minutes: train, stream, drift, detect, retrain, promote, recover."""
    settings = run.settings()
    from cifarctl.events import DemoResult
    from cifarctl.flows.demo import demo as demo_flow
    from cifarctl.ui.demo import DemoView, demo_summary

    dataset, split = load_data(run, settings.data)
    with run.signals() as stop:
        result = run.output.drain(demo_flow(settings, dataset, split, stop=stop), DemoView())
        if isinstance(result, DemoResult):
            run.output.result(result)
            if not run.output.as_json:
                for line in demo_summary(result).splitlines():
                    run.output.say(line)
        elif stop.is_set():
            raise typer.Exit(INTERRUPTED)
