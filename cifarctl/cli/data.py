"""Load the images for a command."""

from typing import TYPE_CHECKING

from cifarctl.cli.command import Run

if TYPE_CHECKING:
    from cifarctl.data import Dataset, Split
    from cifarctl.settings import DataSettings


def load_data(run: Run, settings: "DataSettings") -> "tuple[Dataset, Split]":
    """The data set and its split; prints a warning if the images are not CIFAR-10."""
    from cifarctl import data

    dataset = data.load(settings, run.output.say)
    if dataset.notice:
        run.output.warn(f"WARNING: {dataset.notice}")
    return dataset, data.split_of(dataset, settings)
