"""Pictures for files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cifarctl.errors import SettingsError
from cifarctl.events import EvaluateResult, StreamResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_confusion(result: EvaluateResult, path: Path) -> None:
    """Draw the confusion matrix, each row in shares of its class, as a picture.

    Raises:
        SettingsError: the ending of the name is that of no picture.
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    classes = list(result.per_class)
    shares = [[count / max(1, sum(row)) for count in row] for row in result.confusion]
    side = max(4.5, 0.62 * len(classes) + 2)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"version {result.version}: accuracy {result.accuracy:.1%}")
    if len(classes) <= 20:  # with more, numbers in the cells cannot be read
        for i, row in enumerate(result.confusion):
            for j, count in enumerate(row):
                colour = "white" if shares[i][j] > 0.5 else "black"
                axes.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in formats:
        raise SettingsError(f"--confusion {path}: the name must end in one of {', '.join(sorted(formats))}")
    figure.savefig(path, dpi=130)


def stream_figure(result: StreamResult) -> Figure:
    """The accuracy of the last 200 images over the stream, one line a strategy (seed 0), phases marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    first = [one for one in result.results if one.seed == 0]
    styles = {"frozen": ("0.45", "--"), "oracle": ("black", ":")}
    for one in first:
        step = result.images / len(one.curve)
        colour, style = styles.get(one.strategy, (None, "-"))
        label = f"{one.strategy}  {one.prequential_accuracy:.1%}"
        axes.plot(
            [step * (index + 1) for index in range(len(one.curve))],
            one.curve, label=label, color=colour, linestyle=style, linewidth=1.6,
        )  # fmt: skip
    top = axes.get_ylim()[1]
    for number, phase in enumerate(first[0].phases):
        if number:
            axes.axvline(phase.start, color="0.8", linewidth=0.8, zorder=0)
        axes.text(
            (phase.start + phase.end) / 2, top, phase.name.replace(" + ", "\n"),
            ha="center", va="bottom", fontsize=7, color="0.35",
        )  # fmt: skip
    axes.set_xlim(0, result.images)
    axes.set_xlabel("images")
    axes.set_ylabel("accuracy of the last 200 images")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_title(f"version {result.version} on {result.stream}", loc="left", pad=22)
    axes.legend(loc="lower left", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
