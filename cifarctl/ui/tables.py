"""Tables of the commands that answer at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cifarctl.events import Comparison, EvaluateResult
from cifarctl.ui.widgets import bar, percent

if TYPE_CHECKING:
    from cifarctl.registry import Move
    from cifarctl.settings import Effective

SIGNIFICANT = 0.05  # below which a difference is not put down to chance


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in right else "left",
            overflow="fold",
            no_wrap=column not in {"why", "value", "finding", "reason", "verdict", "source, id"},
        )
    return table


def config_table(rows: Sequence[Effective]) -> RenderableType:
    """Settings, values, sources."""
    table = _table("setting", "value", "from")
    for row in rows:
        style = "" if row.source == "default" else "bold"
        table.add_row(row.setting.name, Text(row.value), row.source, style=style)
    return table


def versions_table(versions: Sequence[Mapping[str, Any]]) -> RenderableType:
    """The versions of a registry."""
    if not versions:
        return "the registry is empty; `cifarctl train` makes a first version"
    table = _table(
        "version", "created", "model", "parent", "validation", "test", "aliases", right=["version", "parent"]
    )
    for row in versions:
        metrics = row["metrics"]
        table.add_row(
            str(row["version"]),
            row["created"][:16].replace("T", " "),
            row["model"],
            str(row["parent"] or "–"),
            percent(metrics.get("validation_accuracy")),
            percent(metrics.get("test_accuracy")),
            ", ".join(row["aliases"]),
            style="bold" if row["aliases"] else "",
        )
    return table


def manifest_table(manifest: Mapping[str, Any], folder: Path, plots: Sequence[Path]) -> RenderableType:
    """One version."""
    table = _table("field", "value")
    for name, value in manifest.items():
        if name == "canary":
            continue
        table.add_row(name, Text(value if isinstance(value, str) else json.dumps(value)))
    table.add_row("folder", Text(str(folder)))
    table.add_row("plots", Text("\n".join(str(plot.relative_to(folder)) for plot in plots)))
    return table


def history_table(moves: Sequence[Move]) -> RenderableType:
    """Moves of aliases, oldest first."""
    if not moves:
        return "no alias has been moved yet"
    table = _table("when (UTC)", "alias", "move", "who", "why")
    for move in moves:
        steps = "rejected" if move.action == "reject" else f"{move.from_version or '–'} → {move.to_version or '–'}"
        back = " back" if move.action == "rollback" else ""
        table.add_row(move.time[5:16].replace("T", " "), move.alias, steps + back, move.who, Text(move.why))
    return table


def removed_table(removed: Sequence[Mapping[str, Any]], *, dry_run: bool) -> RenderableType:
    """What gc removed."""
    if not removed:
        return "nothing to remove"
    table = _table("would be removed" if dry_run else "removed", "reason", "bytes", right=["bytes"])
    for row in removed:
        table.add_row(Path(row["path"]).name, row["reason"], f"{row['bytes']:,}")
    return table


def verify_table(checks: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Verdicts on versions."""
    if not checks:
        return "the registry is empty"
    table = _table("version", "verdict", right=["version"])
    for row in checks:
        table.add_row(str(row["version"]), Text(row["problem"] or "sound", style="red" if row["problem"] else "green"))
    return table


def evaluation(result: EvaluateResult) -> RenderableType:
    """The figures of a version, per class, and its confusion matrix."""
    classes = list(result.per_class)
    head = (
        f"version {result.version}: accuracy {percent(result.accuracy)}, loss {result.loss:.4f}, "
        f"expected calibration error {result.ece:.4f}"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="confusion: rows true, columns predicted")
    table.add_column("")
    short = [name[:5] for name in classes]
    for name in short:
        table.add_column(name, justify="right", no_wrap=True)
    for row, (name, counts) in enumerate(zip(classes, result.confusion, strict=True)):
        highest = max((count for column, count in enumerate(counts) if column != row), default=0)
        cells = [
            Text(
                str(count),
                style="bold green" if column == row else "red" if count and count == highest else "dim",
            )
            for column, count in enumerate(counts)
        ]
        table.add_row(name[:10], *cells)
    accuracies = _table("class", "accuracy", "")
    for name, share in result.per_class.items():
        accuracies.add_row(name, percent(share), bar(share or 0.0, 20))
    return Group(accuracies, table, head)  # last: a small terminal shows the end


def comparison(result: Comparison) -> RenderableType:
    """Two versions side by side, what is better in bold, and the verdict."""
    first, second = result.versions
    table = _table("", f"version {first.version}", f"version {second.version}", "")
    table.add_row("model", *(f"{version.model}, {version.parameters:,}" for version in result.versions), "parameters")

    def add(name: str, pair: Sequence[float | None], told: str, show: Callable[[float | None], str]) -> None:
        one, other = pair
        if one is None or other is None:
            return
        best = (max if told == "accuracy" else min)(one, other)
        cells = [Text(show(value), style="bold" if value == best and one != other else "") for value in pair]
        table.add_row(name, *cells, told)

    add("validation", (first.accuracy, second.accuracy), "accuracy", percent)
    add("", (first.loss, second.loss), "loss", "{:.4f}".format)
    add("", (first.ece, second.ece), "calibration error", "{:.4f}".format)
    tested = [version.metrics.get("test_accuracy") for version in result.versions]
    add("test", tested, "accuracy", percent)
    for name, share in first.per_class.items():
        add(name, (share, second.per_class[name]), "accuracy", percent)
    better = first if result.only_first_right > result.only_second_right else second
    more, fewer = sorted((result.only_first_right, result.only_second_right), reverse=True)
    verdict = "as good as each other" if more == fewer else f"version {better.version} is better"
    if more != fewer and result.p_value >= SIGNIFICANT:
        verdict = "the difference may be chance"
    return Group(
        table,
        f"of {result.images:,} validation images version {first.version} alone gets {result.only_first_right:,} right, "
        f"version {second.version} alone {result.only_second_right:,}: {verdict} (McNemar, p = {result.p_value:.2g})",
    )


def checks_table(checks: Sequence[Mapping[str, Any]]) -> RenderableType:
    """What doctor found."""
    table = _table("check", "", "finding")
    for row in checks:
        mark = Text("ok", style="green") if row["ok"] else Text("FAIL", style="bold red")
        table.add_row(row["check"], mark, Text(row["finding"]))
    return table


def letters_table(letters: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Dead letters, oldest first; two lines for each, so that the reason has room on a small terminal."""
    if not letters:
        return "no dead letters"
    table = _table("at", "when (UTC)", "source, id", "reason")
    for row in letters:
        source = row["source"]
        origin = f"{source['topic']} {source['partition']}:{source['offset']}" if source else "unknown"
        size = f"{row['size']:,} bytes{', a digest' if row['digested'] else ''}"
        table.add_row(
            f"{row['partition']}:{row['offset']}" + ("\nsent back" if row["replayed"] else ""),
            (row["time"] or "unknown")[5:19].replace("T", " "),
            Text(f"{_printable(origin)}\n{_printable(row['id'])[:60]}"),
            Text(f"{_printable(row['class'])}: {_printable(row['message'])} ({_printable(row['stage'])}, {size})"),
        )
    return table


def _printable(text: str) -> str:
    """Foreign text without what would steer a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
