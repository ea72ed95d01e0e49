"""Plots, drawn with matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cifarctl.errors import SettingsError
from cifarctl.events import EpochDone, EvaluateResult, Mistake, StreamResult, TrainReport
from cifarctl.ui.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 130


def draw_confusion(result: EvaluateResult, path: Path) -> None:
    """Plot the confusion matrix, each row normalised to its class, into an image file.

    Raises:
        SettingsError: the file name's suffix is not a supported image format.
        OSError: the file cannot be written.
    """
    title = f"version {result.version}: accuracy {result.accuracy:.1%}"
    figure = _confusion(list(result.per_class), result.confusion, title)
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in formats:
        raise SettingsError(f"--confusion {path}: the name must end in one of {', '.join(sorted(formats))}")
    figure.savefig(path, dpi=DPI)


def training_pictures(report: TrainReport) -> dict[str, bytes]:
    """PNG files by name: the learning curve, and the confusion matrix and most confident mistakes on test images."""
    title = f"test accuracy {report.test_accuracy:.1%}"
    figures = {
        "learning-curve.png": _learning_curve(report.epochs),
        "confusion.png": _confusion(report.classes, report.confusion, title),
        "mistakes.png": _mistakes(report.mistakes, report.classes),
    }
    return {name: _png(figure) for name, figure in figures.items()}


def _learning_curve(epochs: Sequence[EpochDone]) -> Figure:
    from matplotlib.ticker import MaxNLocator

    figure = _figure(8, 4.5)
    loss = figure.add_subplot()
    numbers = [done.epoch for done in epochs]
    loss.plot(numbers, [done.loss for done in epochs], color="0.45", marker=".", label="training loss (left)")
    loss.set_xlabel("epoch")
    loss.set_ylabel("training loss")
    loss.xaxis.set_major_locator(MaxNLocator(integer=True))
    loss.spines[["top"]].set_visible(False)
    handles, names = loss.get_legend_handles_labels()
    validated = [(done.epoch, done.validation_accuracy) for done in epochs if done.validation_accuracy is not None]
    if validated:
        accuracy = loss.twinx()
        accuracy.plot(*zip(*validated, strict=True), color="tab:blue", marker=".", label="validation accuracy (right)")
        accuracy.set_ylabel("validation accuracy")
        accuracy.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        accuracy.spines[["top"]].set_visible(False)
        more_handles, more_names = accuracy.get_legend_handles_labels()
        handles, names = handles + more_handles, names + more_names
    loss.legend(handles, names, loc="center right", frameon=False)
    seconds = sum(done.seconds for done in epochs)
    loss.set_title(f"{len(epochs)} epochs, {seconds:,.0f} s", loc="left")
    return figure


def _mistakes(mistakes: Sequence[Mistake], classes: Sequence[str]) -> Figure:
    columns = 5
    rows = max(1, -(-len(mistakes) // columns))
    figure = _figure(1.9 * columns, 2.2 * rows + 0.4)
    figure.suptitle("most confident mistakes on the test images" if mistakes else "no mistakes on the test images")
    for place, mistake in enumerate(mistakes, 1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(mistake.pixels.transpose(1, 2, 0), interpolation="nearest")
        axes.set_axis_off()
        predicted, label = printable(classes[mistake.predicted]), printable(classes[mistake.label])
        axes.set_title(f"{predicted} {mistake.confidence:.0%}\ntrue: {label}", fontsize=9)
    return figure


def _confusion(classes: Sequence[str], confusion: Sequence[Sequence[int]], title: str) -> Figure:
    shares = [[count / max(1, sum(row)) for count in row] for row in confusion]
    side = min(max(4.5, 0.62 * len(classes) + 2), 20.0)
    figure = _figure(side + 1, side)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [printable(name) for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title)
    if len(classes) <= 20:  # with more, numbers in the cells cannot be read
        for i, row in enumerate(confusion):
            for j, count in enumerate(row):
                colour = "white" if shares[i][j] > 0.5 else "black"
                axes.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, label="fraction of the true class", shrink=0.8)
    return figure


def _figure(width: float, height: float) -> Figure:
    """A figure of `width` × `height` inches that needs no display and prints ``$`` as it is, not as a formula."""
    from matplotlib import rcParams
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rcParams["text.parse_math"] = False
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    return file.getvalue()


def stream_figure(result: StreamResult) -> Figure:
    """The accuracy over the last 200 images along the stream, one line per strategy (seed 0), with phases marked."""
    figure = _figure(11, 5)
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
