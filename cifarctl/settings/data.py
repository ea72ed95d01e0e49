"""What images there are, and how a model is trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cifarctl.settings.types import Fraction, Location, PositiveFloat, PositiveInt, Section, Shares


class DataSettings(Section):
    """Where images come from and how the training images are split."""

    source: Literal["auto", "cifar10", "folder", "synthetic"] = Field(
        "auto", description="cifar10, folder, synthetic, or auto: cifar10 where it can be had, else synthetic"
    )
    dir: Location = Field(
        Path("data"), description="folder that holds cifar-10-batches-py, or train/ and test/ of pictures"
    )
    download: bool = Field(True, description="download CIFAR-10 when it is absent")
    split: Shares = Field((0.7, 0.1, 0.2), description="shares of the training images for train, validation and stream")
    split_seed: int = Field(0, ge=0, description="seed of the stratified split")
    synthetic_images: Annotated[int, Field(ge=500)] = Field(
        20_000, description="training images that the synthetic source draws (a fifth as many for test)"
    )


class TrainSettings(Section):
    """Offline training."""

    model: str = Field(
        "net",
        description="architecture: net, net-bn, airbench, torchvision:NAME, or one of your own as package.module:NAME",
    )
    epochs: PositiveInt = Field(10, description="passes over the training images")
    target_accuracy: Fraction | None = Field(
        None,
        description="stop once validation accuracy reaches this (with test-time augmentation if the model uses it, "
        "measured at the end of each learning-rate cycle), after train.epochs at the latest",
    )
    batch_size: PositiveInt | None = Field(
        None, description="images a step; default: the model's (net 128, airbench 1000)"
    )
    learning_rate: PositiveFloat | None = Field(
        None, description="highest learning rate; default: the model's (net 0.008, airbench 0.24)"
    )
    weight_decay: Annotated[float, Field(ge=0)] | None = Field(
        None, description="decoupled weight decay; default: the model's (net 0.05, airbench 0.002)"
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="share of each label spread evenly; default: the model's (net 0.05, airbench 0.2)"
    )
    tta: Literal["none", "flip", "flip-shift"] | None = Field(
        None,
        description="what the version's answers are averaged over: the image and its mirror image (twice the work), "
        "also moved by a pixel (six times); default: the model's (net none, airbench flip-shift)",
    )
    crop_padding: Annotated[int, Field(ge=0, le=16)] = Field(
        2, description="pixels of reflected border for random crops"
    )
    flip: bool = Field(True, description="mirror each image in every other epoch")
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="arithmetic of training; auto takes bfloat16 where it measures faster"
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="torch.compile: on, off, or auto: in runs of five minutes or more, where it measures faster"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps, ...")
    threads: Annotated[int, Field(ge=0)] = Field(0, description="CPU threads; 0 = every core that the process may use")
    seed: int = Field(0, ge=0, description="seed of initial weights, order and augmentation")
