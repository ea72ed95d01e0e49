"""The manifest of a model version, which lies next to its weights and describes it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from cifarctl.errors import IntegrityError
from cifarctl.settings import Channels, Deviation, Shares


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Metric: TypeAlias = Annotated[float | None, BeforeValidator(_finite_or_none)]


class Record(BaseModel):
    """A frozen part of a manifest; fields that a later cifarctl added are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Normalisation(Record):
    """Mean and standard deviation of pixels per channel, on the 0–1 scale: they are subtracted and divided by."""

    mean: Channels
    std: Deviation


class SplitRecord(Record):
    """The images that were available, and the parts that training has read."""

    source: str = Field(description="name of the data source")
    seed: int
    shares: Shares
    sha256: str = Field(description="fingerprint of the split")
    seen: tuple[str, ...] = Field(description="parts that training has read: train, validation, stream")


class Canary(Record):
    """Logits (4, classes) in float32 of four random images that follow from the seed."""

    seed: int = Field(ge=0)
    logits: tuple[tuple[float, ...], ...]


class Description(Record):
    """The part of a manifest that the caller of `publish` knows: what the model is, and where it comes from."""

    model: str = Field(description="name of the architecture")
    arguments: dict[str, Any] = Field(description="arguments of the architecture's build function")
    normalisation: Normalisation
    image_shape: tuple[Literal[3], Literal[32], Literal[32]] = (3, 32, 32)
    classes: tuple[str, ...] = Field(min_length=1)
    split: SplitRecord
    settings: dict[str, Any] = Field(description="the settings section that the training used")
    metrics: dict[str, Metric]
    parent: int | None = Field(description="version that this one was trained from")
    origin: Literal["train", "learner", "import"]

    @classmethod
    def like(cls, manifest: Manifest, **changes: Any) -> Description:
        """The description of another model with the classes, images and all else of `manifest`, but for `changes`.

        Raises:
            TypeError: a change has no such field.
            ValidationError: a change has another type than its field.
        """
        if unknown := changes.keys() - cls.model_fields.keys():
            raise TypeError(f"no such field of a description: {', '.join(sorted(unknown))}")
        return cls(**{name: getattr(manifest, name) for name in cls.model_fields} | changes)


class Draft(Description):
    """A manifest before the registry has given it a number."""

    libraries: dict[str, str] = Field(description="versions of python, torch and cifarctl")
    canary: Canary


class Manifest(Draft):
    """The whole description of one version; `sha256` and `bytes` are those of its model file."""

    version: int = Field(ge=1)
    created: str = Field(description="ISO 8601, UTC")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


def parse(text: bytes, path: Path) -> Manifest:
    """The manifest in `text`, which was read from `path`.

    Raises:
        IntegrityError: it is not a manifest; the message names the file and the first thing wrong with it.
    """
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        cause = f"{where}: {first['msg']}" if where else first["msg"]
        raise IntegrityError(f"{path}: not a usable manifest ({cause}); use another version") from None
