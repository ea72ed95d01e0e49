"""Tables of the commands without a dashboard."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from cifarctl import times
from cifarctl.events import Comparison, EvaluateResult
from cifarctl.ui.text import printable
from cifarctl.ui.widgets import Cells, bar, paragraph, percent

if TYPE_CHECKING:
    from cifarctl.registry import Move
    from cifarctl.settings import Effective

SIGNIFICANCE = 0.05  # the customary level: a p-value below it counts as significant
WRAPPED = {"created", "why", "value", "finding", "reason", "verdict", "source, id", "phase"}


def headed(*columns: str, right: Sequence[str] = ()) -> Cells:
    """An empty table with these columns; those in `right` are right-aligned, and long texts wrap."""
    table = Cells()
    for column in columns:
        table.column(column, right=column in right, wrap=column in WRAPPED)
    return table


def config_table(rows: Sequence[Effective]) -> RenderableType:
    """Settings with their values and sources."""
    table = headed("setting", "value", "from")
    for row in rows:
        style = "" if row.source == "default" else "bold"
        table.row(row.setting.name, row.value, row.source, style=style)
    return table


def versions_table(versions: Sequence[Mapping[str, Any]], registry: Path) -> RenderableType:
    """The versions of a registry."""
    if not versions:
        return f"the registry in {registry} is empty; `cifarctl train` creates the first version"
    table = headed(
        "version", "created", "model", "parent", "validation", "test", "aliases", right=["version", "parent"]
    )
    for row in versions:
        metrics = row["metrics"]
        table.row(
            str(row["version"]),
            times.display(row["created"]),
            row["model"],
            str(row["parent"] or "–"),
            percent(metrics.get("validation_accuracy")),
            percent(metrics.get("test_accuracy")),
            ", ".join(row["aliases"]),
            style="bold" if row["aliases"] else "",
        )
    return table


def manifest_table(manifest: Mapping[str, Any], folder: Path, plots: Sequence[Path]) -> RenderableType:
    """The manifest of one version."""
    table = headed("field", "value")
    for name, value in manifest.items():
        if name == "canary":
            continue
        formatted = times.display(value, seconds=True) if name == "created" else value
        table.row(name, formatted if isinstance(formatted, str) else json.dumps(formatted, ensure_ascii=False))
    table.row("folder", str(folder))
    table.row("plots", paragraph(*(str(plot.relative_to(folder)) for plot in plots)))
    return table


def history_table(moves: Sequence[Move]) -> RenderableType:
    """Alias moves and rejections, oldest first."""
    if not moves:
        return "no alias has been moved yet"
    table = headed("when", "alias", "move", "who", "why")
    for move in moves:
        steps = "rejected" if move.action == "reject" else f"{move.from_version or '–'} → {move.to_version or '–'}"
        back = " back" if move.action == "rollback" else ""
        table.row(times.display(move.time), move.alias, steps + back, move.who, move.why)
    return table


def removed_table(removed: Sequence[Mapping[str, Any]], *, dry_run: bool) -> RenderableType:
    """The folders that gc removed or would remove."""
    if not removed:
        return "nothing to remove"
    table = headed("would be removed" if dry_run else "removed", "reason", "bytes", right=["bytes"])
    for row in removed:
        table.row(Path(row["path"]).name, row["reason"], f"{row['bytes']:,}")
    return table


def verify_table(checks: Sequence[Mapping[str, Any]], registry: Path) -> RenderableType:
    """Verdicts on the versions and aliases of a registry."""
    if not checks:
        return f"the registry in {registry} is empty"
    table = headed("version", "verdict", right=["version"])
    for row in checks:
        version = "" if row["version"] is None else str(row["version"])
        if row.get("repaired"):
            table.row(version, Text(f"repaired: {row['problem']}", style="green"))
        else:
            note = f"; note: {row['note']}" if "note" in row else ""
            table.row(version, Text(f"{row['problem'] or 'ok'}{note}", style="red" if row["problem"] else "green"))
    return table


def evaluation(result: EvaluateResult) -> RenderableType:
    """A version's accuracy per class, its confusion matrix and its overall metrics."""
    classes = list(result.per_class)
    head = (
        f"version {result.version}: accuracy {percent(result.accuracy)}, loss {result.loss:.4f}, "
        f"expected calibration error {result.ece:.4f}"
    )
    table = Cells(title="confusion: rows true, columns predicted")
    table.column("", wrap=True)
    for name in classes:
        table.column(printable(name)[:5], right=True)
    for row, (name, counts) in enumerate(zip(classes, result.confusion, strict=True)):
        highest = max((count for column, count in enumerate(counts) if column != row), default=0)
        cells = [
            Text(
                str(count),
                style="bold green" if column == row else "red" if count and count == highest else "dim",
            )
            for column, count in enumerate(counts)
        ]
        table.row(printable(name)[:10], *cells)
    accuracies = headed("class", "accuracy", "")
    for name, share in result.per_class.items():
        accuracies.row(name, percent(share), bar(share or 0.0, 20))
    return Group(accuracies, table, head)  # last: a small terminal shows the end


def comparison(result: Comparison) -> RenderableType:
    """Two versions side by side with the better values in bold, and the result of McNemar's test."""
    first, second = result.versions
    table = headed("", f"version {first.version}", f"version {second.version}", "")
    table.row("model", *(f"{version.model}, {version.parameters:,}" for version in result.versions), "parameters")

    def add(name: str, pair: Sequence[float | None], metric: str, show: Callable[[float | None], str]) -> None:
        one, other = pair
        if one is None or other is None:
            return
        best = (max if metric == "accuracy" else min)(one, other)
        cells = [Text(show(value), style="bold" if value == best and one != other else "") for value in pair]
        table.row(name, *cells, metric)

    add("validation", (first.accuracy, second.accuracy), "accuracy", percent)
    add("", (first.loss, second.loss), "loss", "{:.4f}".format)
    add("", (first.ece, second.ece), "calibration error", "{:.4f}".format)
    tested = [version.metrics.get("test_accuracy") for version in result.versions]
    add("test", tested, "accuracy", percent)
    for name, share in first.per_class.items():
        add(name, (share, second.per_class[name]), "accuracy", percent)
    better = first if result.only_first_right > result.only_second_right else second
    more, fewer = sorted((result.only_first_right, result.only_second_right), reverse=True)
    verdict = "no difference" if more == fewer else f"version {better.version} is better"
    if more != fewer and result.p_value >= SIGNIFICANCE:
        verdict = "the difference is not significant"
    return Group(
        table,
        f"of {result.images:,} validation images, {result.only_first_right:,} are correct by version {first.version} "
        f"only and {result.only_second_right:,} by version {second.version} only: {verdict} "
        f"(McNemar's test, p = {result.p_value:.2g})",
    )


def checks_table(checks: Sequence[Mapping[str, Any]]) -> RenderableType:
    """The checks of `doctor`."""
    table = headed("check", "", "finding")
    for row in checks:
        mark = Text("ok", style="green") if row["ok"] else Text("FAIL", style="bold red")
        table.row(row["check"], mark, row["finding"])
    return table


def letters_table(letters: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Dead letters, oldest first, two lines each so that the reason fits on a small terminal."""
    if not letters:
        return "no dead letters"
    table = headed("at", "when", "source, id", "reason")
    for row in letters:
        source = row["source"]
        origin = f"{source['topic']} {source['partition']}:{source['offset']}" if source else "unknown"
        size = f"{row['size']:,} bytes{', a digest' if row['digested'] else ''}"
        table.row(
            paragraph(f"{row['partition']}:{row['offset']}", *(["replayed"] if row["replayed"] else [])),
            "unknown" if row["time"] is None else times.display(row["time"], seconds=True),
            paragraph(origin, printable(row["id"])[:60]),
            f"{row['class']}: {row['message']} ({row['stage']}, {size})",
        )
    return table
