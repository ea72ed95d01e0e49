"""``cifarctl dead-letters ...``."""

from typing import Annotated

import typer

from cifarctl.cli.command import Run, command

ErrorClass = Annotated[
    str | None, typer.Option("--class", metavar="NAME", help="Only dead letters of this error class.")
]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        name="dead-letters",
        help="Inspect and replay dead letters (messages that could not be processed).",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    command(group, "list")(list_letters)
    command(group)(replay)
    app.add_typer(group)


def list_letters(
    run: Run,
    error: ErrorClass = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only dead letters since this time: 2h, 2026-01-31T12:00 (local)."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number, newest first.")] = 100,
) -> None:
    """List dead letters with the reason and the source of each."""
    from dataclasses import asdict

    from cifarctl import times
    from cifarctl.flows.dead_letters import Choice, examine
    from cifarctl.ui.tables import letters_table

    choice = Choice(error=error, since_ms=None if since is None else times.parse(since, "--since"))
    rows, chosen = examine(run.settings().kafka, choice, limit)
    document = []
    for row in rows:
        fields = asdict(row)
        document.append({("class" if name == "error" else name): value for name, value in fields.items()})
    run.output.result(document, letters_table(document))
    if chosen > len(rows):
        run.output.warn(f"showing the newest {len(rows):,} of {chosen:,} dead letters; raise --limit to see more")


def replay(
    run: Run,
    everything: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
    error: ErrorClass = None,
    at: Annotated[
        list[str] | None,
        typer.Option(metavar="PARTITION:OFFSET", help="The dead letter at this position; repeatable."),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Include dead letters that were replayed before.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Report how many would be sent, and send nothing.")
    ] = False,
) -> None:
    """Send dead letters back to their source topics, once the cause is fixed."""
    from dataclasses import asdict

    from cifarctl.errors import SettingsError
    from cifarctl.flows.dead_letters import Choice
    from cifarctl.flows.dead_letters import replay as send_back

    if everything + bool(error) + bool(at) != 1:
        raise SettingsError("choose the dead letters by exactly one of --all, --class NAME and --at PARTITION:OFFSET")
    choice = Choice(error=error, places=frozenset(map(_place, at)) if at else None)
    with run.signals() as stop:
        result = send_back(run.settings().kafka, choice, again=again, dry_run=dry_run, stop=stop)
        for problem in result.problems[:20]:
            run.output.warn(f"not sent: {problem}")
        if len(result.problems) > 20:
            run.output.warn(f"and {len(result.problems) - 20:,} more")
        verb = "would be replayed" if dry_run else "replayed"
        run.output.result(
            asdict(result) | {"dry_run": dry_run},
            f"{result.replayed:,} {verb}, {result.skipped:,} skipped (replayed before), {result.failed:,} failed",
        )


def _place(text: str) -> tuple[int, int]:
    from cifarctl.errors import SettingsError

    partition, colon, offset = text.partition(":")
    if not (colon and partition.isdecimal() and offset.isdecimal()):
        raise SettingsError(f"--at {text}: expected PARTITION:OFFSET from `cifarctl dead-letters list`, such as 0:17")
    return int(partition), int(offset)
