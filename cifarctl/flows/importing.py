"""Import a model of another program into the registry."""

from __future__ import annotations

import pickle  # noqa: TID251  for the name of an exception only
import warnings
from pathlib import Path

import torch

from cifarctl import models
from cifarctl.data import Dataset, Split
from cifarctl.errors import IntegrityError, RegistryError
from cifarctl.models.predictor import Predictor
from cifarctl.registry import Description, Manifest, Normalisation, Registry
from cifarctl.registry import validation as validation_images
from cifarctl.registry.publishing import publish, split_record
from cifarctl.settings import DataSettings, ServeSettings
from cifarctl.training.metrics import evaluate

#: Exceptions of torch.load for files that hold something else; which one depends on their content.
NOT_WEIGHTS = (
    OSError,
    RuntimeError,
    EOFError,
    pickle.UnpicklingError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
)
LISTED = 12  # tensors that an error message lists


def import_weights(
    registry: Registry,
    file: Path,
    name: str,
    dataset: Dataset,
    split: Split,
    data_settings: DataSettings,
    serve_settings: ServeSettings,
) -> Manifest:
    """Publish the state dictionary that torch.save wrote to `file` as a version of architecture `name`.

    Tensors whose names differ are matched by order and shape, as a class of layers rewritten as a sequence needs. The
    normalisation is that of the producers of JSON, as for the tutorial's model; training, validation and stream images
    all count as seen, since nobody can tell.

    Raises:
        IntegrityError: the file holds something else, or weights of another shape.
        RegistryError: there is no such file, or the registry cannot be written.
    """
    found = _read_state(file)
    arguments = {"classes": len(dataset.classes), **models.recipe_of(name).arguments}
    model = models.build(name, arguments)
    model.load_state_dict(_matched(found, model.state_dict(), file, name))
    normalisation = Normalisation(mean=serve_settings.json_mean, std=serve_settings.json_std)
    predictor = Predictor(model, normalisation.mean, normalisation.std)
    held_out = dataset.train.take(split.validation)
    validation = evaluate(predictor, held_out)
    test = evaluate(predictor, dataset.test)
    description = Description(
        model=name,
        arguments=arguments,
        normalisation=normalisation,
        classes=dataset.classes,
        split=split_record(dataset, split, data_settings, ("train", "validation", "stream")),
        settings={"file": file.name},
        metrics={
            "validation_accuracy": validation.accuracy,
            "test_accuracy": test.accuracy,
            "test_loss": test.loss,
        },
        parent=None,
        origin="import",
    )
    manifest = publish(registry, model, description)
    validation_images.save(registry, split.sha256, held_out.pixels, held_out.labels)
    return manifest


def _read_state(file: Path) -> dict[str, torch.Tensor]:
    """The state dictionary in `file`, alone or under the key ``state_dict``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's about unusual files: either we can use them or we say why not
            found = torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251
    except FileNotFoundError:
        raise RegistryError(f"{file}: no such file") from None
    except NOT_WEIGHTS as error:
        raise IntegrityError(
            f"{file} holds no plain weights ({type(error).__name__}); save model.state_dict() with torch.save"
        ) from None
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise IntegrityError(f"{file} holds no state dictionary; save model.state_dict(), not the model")
    return found


def _matched(
    found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], file: Path, name: str
) -> dict[str, torch.Tensor]:
    """The tensors of `found` under the names of `wanted`."""
    weights = found if found.keys() == wanted.keys() else dict(zip(wanted, found.values(), strict=False))
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    if len(found) != len(wanted) or shapes != {key: tuple(value.shape) for key, value in wanted.items()}:
        raise IntegrityError(f"{file} does not fit the architecture {name}: it holds {_describe(found)}")
    if not all(bool(value.isfinite().all()) for value in weights.values()):
        raise IntegrityError(f"{file} holds numbers that are not finite")
    return weights


def _describe(tensors: dict[str, torch.Tensor]) -> str:
    return ", ".join(f"{name} {tuple(value.shape)}" for name, value in list(tensors.items())[:LISTED])
