"""``cifarctl retrain``."""

from typing import Annotated

import typer

from cifarctl.cli.command import INTERRUPTED, Run, command
from cifarctl.errors import SettingsError


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "retrain")(retrain)


def retrain(
    run: Run,
    follow: Annotated[bool, typer.Option("--follow", help="Keep learning: run the learner as a service.")] = False,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            help="Ignore saved progress; use labelled images since: 2h, 2026-01-31T12:00 (local).",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report the outcome without changing anything.")] = False,
) -> None:
    """Train one challenger on the labelled images since the last update, and submit it to the gate."""
    if follow and dry_run:
        raise SettingsError("--follow and --dry-run are mutually exclusive: leave one of them out")
    if follow and since is not None:
        raise SettingsError("--follow and --since are mutually exclusive: leave one of them out")
    settings = run.settings()
    from cifarctl import times
    from cifarctl.stream import clients

    since_ms = None if since is None else times.parse(since, "--since")
    clients.check(settings.kafka)  # before the heavy imports, so that a missing broker is reported at once

    from cifarctl.errors import NotEnoughData, QualityGateError
    from cifarctl.events import RetrainResult
    from cifarctl.flows import learn
    from cifarctl.flows.retrain import once, rehearse
    from cifarctl.models import memory, threads
    from cifarctl.tally import Tally
    from cifarctl.ui.learn import RetrainView

    threads.use(settings.online.threads)
    memory.keep_freed()
    with run.signals() as stop:
        if follow:
            tally = Tally()
            for event in run.output.show(learn.learn(settings, stop), RetrainView()):
                tally.update(event)
            run.output.result(tally.learner())
            return
        result: RetrainResult | None = None
        failure: NotEnoughData | None = None
        try:
            learned = (rehearse if dry_run else once)(settings, stop, since_ms=since_ms)
            for event in run.output.show(learned, RetrainView()):
                if isinstance(event, RetrainResult):
                    result = event
        except NotEnoughData as error:  # raised after the result is printed, which scripts read
            failure = error
        if result is None:  # interrupted before there was an outcome
            raise typer.Exit(INTERRUPTED)
        run.output.result(result)
        if failure is not None:
            raise failure
        if result.outcome == "rejected":
            raise QualityGateError(f"the challenger was rejected: {result.reasons[0]}")
