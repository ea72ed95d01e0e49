"""Pictures for files."""

from __future__ import annotations

from pathlib import Path

from cifarctl.errors import SettingsError
from cifarctl.events import EvaluateResult


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
