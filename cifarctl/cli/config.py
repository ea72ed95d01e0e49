"""``cifarctl config``."""

from typing import Annotated

import typer

from cifarctl.cli.command import Run, command


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "config")(config)


def config(
    run: Run,
    env_example: Annotated[bool, typer.Option("--env-example", help="Print the text of .env.example.")] = False,
    reference: Annotated[bool, typer.Option("--reference", help="Print the settings as a Markdown table.")] = False,
) -> None:
    """Show every setting's effective value and its source; secrets are masked."""
    from cifarctl import settings

    if env_example or reference:
        typer.echo(settings.env_example() if env_example else settings.reference(), nl=False)
        return
    rows = settings.explain(run.overrides())
    from cifarctl.ui.tables import config_table

    document = {row.setting.name: {"value": row.value, "source": row.source} for row in rows}
    run.output.result(document, config_table(rows))
