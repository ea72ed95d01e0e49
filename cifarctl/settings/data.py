"""Settings of the data set and of offline training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cifarctl.settings.types import Fraction, Location, PositiveFloat, PositiveInt, Section, Shares


class DataSettings(Section):
    """The data set and its split."""

    source: Literal["auto", "cifar10", "folder", "synthetic"] = Field(
        "auto", description="cifar10, folder, synthetic, or auto: cifar10 if available, otherwise synthetic"
    )
    dir: Location = Field(
        Path("data"), description="folder that contains cifar-10-batches-py, or image folders train/ and test/"
    )
    download: bool = Field(True, description="download CIFAR-10 if it is absent")
    split: Shares = Field(
        (0.7, 0.1, 0.2), description="fractions of the training images for train, validation and stream"
    )
    split_seed: int = Field(0, ge=0, description="seed for the stratified split")
    synthetic_images: Annotated[int, Field(ge=500)] = Field(
        20_000, description="number of synthetic training images; a fifth as many test images are drawn"
    )


class TrainSettings(Section):
    """Offline training."""

    model: str = Field(
        "net",
        description="architecture: net, net-bn, airbench, torchvision:NAME, or your own as package.module:NAME",
    )
    epochs: PositiveInt = Field(10, description="number of passes over the training images")
    target_accuracy: Fraction | None = Field(
        None,
        description="stop once validation accuracy reaches this (with test-time augmentation if the model uses it, "
        "measured at the end of each learning-rate cycle), after train.epochs at the latest",
    )
    batch_size: PositiveInt | None = Field(
        None, description="training batch size; default: the model's (net 128, airbench 1000)"
    )
    learning_rate: PositiveFloat | None = Field(
        None, description="peak learning rate; default: the model's (net 0.008, airbench 0.24)"
    )
    weight_decay: Annotated[float, Field(ge=0)] | None = Field(
        None, description="decoupled weight decay; default: the model's (net 0.05, airbench 0.002)"
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="label smoothing, from 0 to below 1; default: the model's (net 0.05, airbench 0.2)"
    )
    tta: Literal["none", "flip", "flip-shift"] | None = Field(
        None,
        description="test-time augmentation: none; flip: average over the image and its mirror image (2x the cost); "
        "flip-shift: also over one-pixel shifts (6x); default: the model's (net none, airbench flip-shift)",
    )
    crop_padding: Annotated[int, Field(ge=0, le=16)] = Field(
        2, description="reflection padding for random crops, in pixels"
    )
    flip: bool = Field(True, description="flip each image horizontally in every other epoch")
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="numeric precision of training; auto: bfloat16 if it measures faster"
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="torch.compile: on, off, or auto: for runs of five minutes or more if it measures faster"
    )
    device: str = Field("auto", description="device for training: auto, cpu, cuda, cuda:1, mps, ...")
    threads: Annotated[int, Field(ge=0)] = Field(0, description="CPU threads for training; 0 = all available cores")
    seed: int = Field(0, ge=0, description="seed for initial weights, order and augmentation")
