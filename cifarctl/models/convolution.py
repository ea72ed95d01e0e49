"""A convolution with a faster weight gradient for small images, on a CPU in bfloat16."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.grad import conv2d_input

MAX_WIDTH = 8  # image width in pixels up to which matrix products are faster: `python -m benchmarks.convolution`


class Convolution(nn.Conv2d):
    """A 3 × 3 convolution with zero padding and without bias, equal to `nn.Conv2d` up to rounding of the gradients.

    oneDNN computes the weight gradient one row of pixels at a time. With short rows, most of AMX (the matrix unit of
    Intel CPUs) is idle; benchmarks/README.md has measurements. On an accelerator, in float32 and under torch.compile
    this class uses torch's own gradient.
    """

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__(channels, filters, 3, padding=1, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W) to (B, filters, H, W)."""
        eager = images.device.type == "cpu" and not torch.compiler.is_compiling()
        trained = eager and torch.is_grad_enabled() and self.weight.requires_grad
        if not trained or not torch.is_autocast_enabled("cpu") or images.shape[3] > MAX_WIDTH:
            return super().forward(images)
        dtype = torch.get_autocast_dtype("cpu")
        found: torch.Tensor = _Convolve.apply(images.to(dtype), self.weight.to(dtype))
        return found


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(images, weight)
        return functional.conv2d(images, weight, padding=1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        (images, weight), (gradient,) = ctx.saved_tensors, gradients
        passed = None
        if ctx.needs_input_grad[0]:
            passed = conv2d_input(images.shape, weight, gradient, padding=1)  # type: ignore[no-untyped-call]
        return passed, weight_gradient(images, gradient)


def weight_gradient(images: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """The weight gradient (O, I, 3, 3) of a 3 × 3 convolution with zero padding.

    All pixels of the batch in sequence, with zeros after each row and each image, form a matrix. Shifting the images by
    a pixel or a row is then an offset into this matrix, so each of the nine kernel positions takes one matrix product.

    Args:
        images: the input (B, I, H, W).
        gradient: of the output (B, O, H, W).
    """
    _, channels, _, width = images.shape
    row, margin = width + 1, width + 2
    pixels = functional.pad(_in_a_row(images), (0, 0, margin, margin))
    gradients = _in_a_row(gradient).T.contiguous()
    count = gradients.shape[1]
    starts = [margin + down * row + right for down in (-1, 0, 1) for right in (-1, 0, 1)]
    products = torch.stack([gradients @ pixels[start : start + count] for start in starts], dim=2)
    return products.view(-1, channels, 3, 3)


def _in_a_row(images: torch.Tensor) -> torch.Tensor:
    """Pixels (B, C, H, W) in sequence, (B * (H + 1) * (W + 1), C): a zero after each row, a zero row per image."""
    return functional.pad(images.permute(0, 2, 3, 1), (0, 0, 0, 1, 0, 1)).flatten(0, 2)
