"""``cifarctl verify-stream``."""

from typing import Annotated

import typer

from cifarctl.cli.command import Run, command


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "verify-stream")(verify_stream)


def verify_stream(
    run: Run,
    group: Annotated[str | None, typer.Option(help="Consumer group of serve; default: kafka.group_id.")] = None,
) -> None:
    """Check that every input was answered exactly once and in order; exit with 6 if not."""
    kafka = run.settings({"kafka.group_id": group}).kafka
    from cifarctl.errors import QualityGateError
    from cifarctl.events import VerifyResult
    from cifarctl.flows.verify import verify
    from cifarctl.ui.verify import VerifyView, verify_faults, verify_summary

    result = run.output.drain(verify(kafka), VerifyView())
    assert isinstance(result, VerifyResult)
    run.output.result(result, verify_summary(result))
    if not result.exact:
        raise QualityGateError(verify_faults(result))
