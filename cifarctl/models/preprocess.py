"""Convert pixels to network inputs, and logits to probabilities."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

Channels = tuple[float, float, float]


def normalise(pixels: torch.Tensor, mean: Channels, std: Channels) -> torch.Tensor:
    """``(pixels / 255 - mean) / std`` for pixels (B, 3, 32, 32) uint8: float32, channels last, same device.

    `mean` and `std` are per channel, on the 0–1 scale.
    """
    scale, shift = (constant.to(pixels.device) for constant in _constants(mean, std))
    images = torch.empty(pixels.shape, device=pixels.device, memory_format=torch.channels_last)
    # On the CPU one operation converts, scales and reorders in half the time of three. Other devices may not support
    # mixed types in one operation.
    values = pixels if pixels.device.type == "cpu" else pixels.float()
    return torch.addcmul(shift, values, scale, out=images)


def recolour(images: torch.Tensor, matrix: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """``matrix @ pixel + shift`` for every pixel of images (B, 3, H, W); matrix (3, 3), shift (3,)."""
    return functional.conv2d(images, matrix[:, :, None, None], shift)


class Whole(nn.Module):
    """A network with normalisation and softmax: from pixels (B, 3, 32, 32) uint8 to probabilities (B, classes).

    Exporters get this module, so that the normalisation is part of the graph.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, model: nn.Module, mean: Channels, std: Channels) -> None:
        super().__init__()
        self.model = model
        for name, constant in zip(("scale", "shift"), _constants(mean, std), strict=True):
            self.register_buffer(name, constant)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Probabilities in float32, in any precision of the network."""
        logits: torch.Tensor = self.model(pixels.float() * self.scale + self.shift)
        return logits.float().softmax(dim=1)


def _constants(mean: Channels, std: Channels) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift of normalisation, (1, 3, 1, 1) float32 each: ``pixels * scale + shift``."""
    scale = [1 / (255 * deviation) for deviation in std]
    shift = [-centre / deviation for centre, deviation in zip(mean, std, strict=True)]
    return torch.tensor(scale).view(1, 3, 1, 1), torch.tensor(shift).view(1, 3, 1, 1)
