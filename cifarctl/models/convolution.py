"""A convolution whose weights have their gradient sooner where images are small, on a processor in bfloat16."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.grad import conv2d_input

SMALL = 8  # pixels of a row up to which matrix products are faster


class Convolution(nn.Conv2d):
    """3 × 3 with a border of zeros and no bias; the same function as of `Conv2d`, and the same gradients but rounding.

    oneDNN sums a weight's gradient over a row of pixels at a time. Where rows are short that leaves most of AMX idle,
    the matrix unit of Intel's processors (figures: benchmarks/README.md). On an accelerator, in float32 and where
    torch.compile does the work it is torch's own.
    """

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__(channels, filters, 3, padding=1, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W) to (B, filters, H, W)."""
        eager = images.device.type == "cpu" and not torch.compiler.is_compiling()
        trained = eager and torch.is_grad_enabled() and self.weight.requires_grad
        if not trained or not torch.is_autocast_enabled("cpu") or images.shape[3] > SMALL:
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
    """The gradient (O, I, 3, 3) of the weights of a 3 × 3 convolution with a border of zeros.

    From `images` (B, I, H, W) and the gradient (B, O, H, W) of what it made of them. All pixels one after another, each
    row and each image followed by zeros, are a matrix; to move the images by a pixel or by a row is to begin it
    somewhat earlier or later, so that each of the nine places of the weights takes one product of matrices.
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
    """(B * (H + 1) * (W + 1), C) of (B, C, H, W): zeros after each row, and a row of them after each image."""
    return functional.pad(images.permute(0, 2, 3, 1), (0, 0, 0, 1, 0, 1)).flatten(0, 2)
