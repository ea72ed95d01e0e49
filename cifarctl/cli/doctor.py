"""``cifarctl doctor``."""

import typer

from cifarctl.cli.command import Run, command


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "doctor")(doctor)


def doctor(run: Run) -> None:
    """Check device, data, registry, broker and topics, and suggest a remedy for each failure."""
    settings = run.settings()
    from dataclasses import asdict

    from cifarctl.flows.doctor import examine
    from cifarctl.ui.tables import checks_table

    found = examine(settings)
    document = [asdict(check) for check, _ in found]
    run.output.result(document, checks_table(document))
    worst = next((code for _, code in found if code), 0)
    if worst:
        raise typer.Exit(worst)
