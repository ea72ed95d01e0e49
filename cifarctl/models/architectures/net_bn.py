"""The tutorial's CNN with batch normalisation after each convolution; its statistics can adapt to a drift."""

from torch import nn


def build(*, classes: int = 10) -> nn.Module:
    """A network from normalised images (B, 3, 32, 32) to logits (B, classes); 122,730 parameters for ten."""
    return nn.Sequential(
        *_block(3, 32), *_block(32, 64), *_block(64, 64),
        nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, classes),
    )  # fmt: skip


def _block(channels: int, filters: int) -> tuple[nn.Module, ...]:
    # The normalisation would cancel a bias. Pooling before ReLU as in `net`.
    convolution = nn.Conv2d(channels, filters, 3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(filters), nn.MaxPool2d(2), nn.ReLU()
