"""The report of `eval --stream` as a self-contained HTML file."""

from __future__ import annotations

import html
import io
from pathlib import Path

from rich.console import Console

from cifarctl.errors import SettingsError
from cifarctl.events import StreamResult
from cifarctl.ui.contest import contest_tables
from cifarctl.ui.plots import stream_figure
from cifarctl.ui.text import printable

WIDTH = 140  # characters of the tables

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
  pre {{ font: 13px/1.35 ui-monospace, monospace; overflow-x: auto; }}
  svg {{ width: 100%; height: auto; }}
  code {{ background: #f3f3f3; padding: 0 .25em; }}
</style>
<h1>{title}</h1>
<p>Each image is predicted before its label is learned from. Scenario: <code>{scenario}</code></p>
{figure}
<pre>{tables}</pre>
</html>
"""


def require_page(path: Path) -> None:
    """Check before a long evaluation that a report can be written to `path`.

    Raises:
        SettingsError: the name does not end in .html, or the folder does not exist.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise SettingsError(f"--report {path}: the name must end in .html")
    if not path.absolute().parent.is_dir():
        raise SettingsError(f"--report {path}: there is no folder {path.parent}")


def write_report(result: StreamResult, path: Path) -> None:
    """Write a plot of accuracy along the stream and the result tables.

    Raises:
        SettingsError: the file cannot be written.
    """
    drawn = io.StringIO()
    stream_figure(result).savefig(drawn, format="svg")
    svg = drawn.getvalue()
    console = Console(width=WIDTH, record=True, color_system=None, file=io.StringIO())
    console.print(contest_tables(result))
    page = PAGE.format(
        title=html.escape(printable(f"cifarctl: version {result.version} on {result.stream}")),
        scenario=html.escape(printable(result.scenario or "none")),
        figure=svg[svg.index("<svg") :],
        tables=html.escape(console.export_text()),
    )
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"--report {path} cannot be written: {error.strerror}") from None
