"""Inference: a model with its normalisation, and the choice of device and precision."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn

from cifarctl.errors import SettingsError
from cifarctl.models.preprocess import Channels, normalise

Precision = Literal["bfloat16", "float32"]

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
PASSES = 4  # timed passes per measurement; the fastest counts
MEASURED = 32  # maximum images per timed pass on a CPU; larger batches give the same ranking


def choose_device(name: str, setting: str) -> torch.device:
    """The device `name`, the value of `setting`; auto = the accelerator if there is one, otherwise the CPU.

    Raises:
        SettingsError: torch does not know the device, or it is not available.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator if accelerator is not None else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"{setting} = {name}: not usable here ({reason}); use auto or cpu") from None
    return device


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context that runs a forward pass in `precision`."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def choose_precision(
    wanted: Literal["auto", "bfloat16", "float32"],
    model: nn.Module,
    device: torch.device,
    batch: int,
    *,
    train: bool,
) -> Precision:
    """`wanted`, or for auto the faster precision in a short measurement on random images.

    The measurement uses one thread, so that other work on the machine affects it less. bfloat16 must be faster by a
    fifth, as timings are noisy; without bfloat16 instructions it is emulated and ten times slower. The model's
    parameters, the random generators and the number of threads are left unchanged.
    """
    if wanted != "auto":
        return wanted
    with torch.random.fork_rng(devices=[]):
        count = min(batch, MEASURED) if device.type == "cpu" else batch
        images = torch.rand(count, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    was_training, threads = model.training, torch.get_num_threads()
    model.eval()  # a forward pass in training mode would update batch-norm statistics
    torch.set_num_threads(1)
    try:
        seconds = {precision: fastest(model, images, precision, train=train) for precision in PRECISIONS}
    finally:
        torch.set_num_threads(threads)
        model.train(was_training)
    return "bfloat16" if seconds["bfloat16"] < 0.8 * seconds["float32"] else "float32"


def fastest(
    model: nn.Module, images: torch.Tensor, precision: Precision, *, train: bool, passes: int = PASSES
) -> float:
    """Seconds of the fastest of `passes` passes over normalised `images`, with `train` forward and backward."""
    times = []
    for _ in range(passes + 1):  # the first is a warm-up
        start = time.perf_counter()
        with autocast(images.device, precision), torch.set_grad_enabled(train):
            logits = model(images)
        if train:
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            torch.autograd.grad(logits.float().sum(), trained, allow_unused=True)
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


class Predictor:
    """Predicts class probabilities of uint8 images. It takes ownership of the model, which it moves to the device."""

    def __init__(
        self,
        model: nn.Module,
        mean: Channels,
        std: Channels,
        *,
        device: torch.device | None = None,
        precision: Precision = "float32",
        batch_size: int = 128,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.model = model.to(self.device).to(memory_format=torch.channels_last).eval()
        self.precision = precision
        self.batch_size = batch_size
        self._mean, self._std = mean, std

    def using(self, precision: Precision) -> Predictor:
        """The same model in another precision."""
        return Predictor(
            self.model, self._mean, self._std, device=self.device, precision=precision, batch_size=self.batch_size
        )

    @torch.inference_mode()
    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Probabilities (N, classes) float32 on the CPU for pixels (N, 3, 32, 32) uint8."""
        parts = []
        for chunk in torch.split(pixels, self.batch_size):
            images = normalise(chunk.to(self.device), self._mean, self._std)
            with autocast(self.device, self.precision):
                logits = self.model(images)
            parts.append(logits.float().softmax(dim=1).cpu())
        return torch.cat(parts) if parts else torch.empty(0, 0)
