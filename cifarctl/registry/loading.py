"""Model files: from a model to bytes and, through every check, back again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import nn

from cifarctl import models
from cifarctl.errors import IntegrityError, SettingsError, UntrustedCode
from cifarctl.models.backends import Network
from cifarctl.models.foreign import own_code
from cifarctl.models.predictor import Precision, Predictor
from cifarctl.models.preprocess import normalise
from cifarctl.registry.manifest import Canary, Manifest, Normalisation
from cifarctl.registry.store import Registry

CANARY_SEED = 20_240_601
#: Largest allowed difference of a logit, as a share of the largest logit: processors and versions of torch sum in
#: different orders; a wrong or damaged model is off by far more.
CANARY_TOLERANCE = 1e-2

_CANARY_SHAPE = (4, 3, 32, 32)


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode on the CPU that has passed every check, and its manifest."""

    model: nn.Module
    manifest: Manifest

    def predictor(
        self, *, device: torch.device | None = None, precision: Precision = "float32", batch_size: int = 128
    ) -> Predictor:
        """The eager predictor of the model, which moves to `device`."""
        normalisation = self.manifest.normalisation
        return Predictor(
            self.model,
            normalisation.mean,
            normalisation.std,
            device=device,
            precision=precision,
            batch_size=batch_size,
        )

    def network(self) -> Network:
        """The model as inference backends take it."""
        normalisation = self.manifest.normalisation
        return Network(self.model, normalisation.mean, normalisation.std, len(self.manifest.classes))


def to_bytes(model: nn.Module) -> bytes:
    """The content of the model's file: its state dict as safetensors."""
    # Cloned because safetensors refuses tensors that share memory, as tied weights do.
    return safetensors.save({name: _plain(tensor).clone() for name, tensor in model.state_dict().items()})


def canary(model: nn.Module, normalisation: Normalisation, seed: int = CANARY_SEED) -> Canary:
    """Logits of four random images, in float32 on the CPU; `model` stays as it is.

    Raises:
        IntegrityError: they are not all finite numbers, so the model is of no use.
    """
    logits = _canary_logits(copy.deepcopy(model).to("cpu", torch.float32), normalisation, seed)
    if not bool(logits.isfinite().all()):
        raise IntegrityError("the model predicts values that are not finite; lower the learning rate and train again")
    return Canary(seed=seed, logits=tuple(tuple(row) for row in logits.tolist()))


def load(registry: Registry, reference: str | int) -> LoadedModel:
    """The model that `reference` means, built anew from its file and checked.

    The checks, in this order: size limit, sha256 of the bytes that are then used, trust in code that is neither ours
    nor torchvision's, safetensors (never pickle), architecture, exact names, shapes and types of all tensors, all
    values finite, and the logits of the manifest's canary.
    Torch's random generators are left as they were.

    Raises:
        VersionNotFound: there is no such version.
        IntegrityError: a check failed; the message names the version and the cause.
        UntrustedCode: its architecture comes from another package, and `registry.trusted_models` does not name it.
        RegistryError: a file cannot be read.

    Example:
        It is `cifarctl.load_version`. `reference` is a number, an alias, or ``latest``.

        >>> from cifarctl import Registry, Settings, load_version
        >>> model = load_version(Registry(Settings().registry), "production")
        >>> model.manifest.version, model.manifest.model, len(model.manifest.classes)
        (1, 'net', 10)
        >>> load_version(Registry(Settings().registry), "9")
        Traceback (most recent call last):
        cifarctl.errors.VersionNotFound: ...
    """
    version = registry.resolve(reference)
    manifest, weights = registry.read_weights(version)
    require_trusted(registry, manifest.model, manifest.arguments)
    try:
        tensors = safetensors.load(weights)
    except (SafetensorError, ValueError, KeyError) as error:  # KeyError: a type that torch lacks
        raise _failed(version, f"its file is not valid safetensors ({_line(error)})") from None
    model = _build(manifest)
    _check_tensors(version, model.state_dict(), tensors)
    model.load_state_dict(tensors)
    model.eval()
    _check_canary(model, manifest)
    return LoadedModel(model, manifest)


def require_trusted(registry: Registry, model: str, arguments: Mapping[str, Any]) -> None:
    """Require that building this architecture runs only our own code, torchvision's and trusted code.

    Raises:
        UntrustedCode: it would run other code; the message says what to set.
    """
    for path in own_code(model, arguments):
        if path not in registry.trusted_models:
            raise UntrustedCode(
                f"{model}: the code of {path} is not run before registry.trusted_models = {path} allows it "
                f"(CIFARCTL_REGISTRY__TRUSTED_MODELS={path})"
            )


def _build(manifest: Manifest) -> nn.Module:
    try:
        with torch.random.fork_rng(devices=[]):
            return models.build(manifest.model, manifest.arguments)
    except (SettingsError, TypeError, ValueError, RuntimeError) as error:
        raise _failed(manifest.version, f"architecture {manifest.model!r} cannot be built ({_line(error)})") from None


def _check_tensors(version: int, expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> None:
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys())
    if missing or extra:
        raise _failed(
            version,
            f"tensors missing: {', '.join(missing) or 'none'}, unexpected: {', '.join(extra) or 'none'}",
        )
    for name, wanted in expected.items():
        tensor = found[name]
        if tensor.shape != wanted.shape:
            raise _failed(version, f"{name} has shape {tuple(tensor.shape)}, not {tuple(wanted.shape)}")
        if tensor.dtype != wanted.dtype:
            raise _failed(version, f"{name} has type {tensor.dtype}, not {wanted.dtype}")
        if not bool(tensor.isfinite().all()):
            raise _failed(version, f"{name} has values that are not finite")


def _check_canary(model: nn.Module, manifest: Manifest) -> None:
    rows = manifest.canary.logits
    classes = len(manifest.classes)
    if len(rows) != _CANARY_SHAPE[0] or any(len(row) != classes for row in rows):
        raise _failed(manifest.version, f"its canary is not {_CANARY_SHAPE[0]} rows of {classes} logits")
    try:
        found = _canary_logits(model, manifest.normalisation, manifest.canary.seed)
    except (RuntimeError, ValueError) as error:
        raise _failed(manifest.version, f"the canary prediction fails ({_line(error)})") from None
    expected = torch.tensor(rows)
    if found.shape != expected.shape:
        shapes = f"{tuple(found.shape)}, not {tuple(expected.shape)}"
        raise _failed(manifest.version, f"the canary prediction has shape {shapes}")
    # The floor keeps an all but silent model (a zero head) from being compared at an infinite precision.
    allowed = CANARY_TOLERANCE * max(float(expected.abs().max()), 1e-3)
    difference = float((found - expected).abs().max())
    if not difference <= allowed:
        raise _failed(
            manifest.version,
            f"the canary prediction is off by {difference:.3g}, allowed are {allowed:.3g} "
            f"({CANARY_TOLERANCE:g} of the largest logit)",
        )


def _canary_logits(model: nn.Module, normalisation: Normalisation, seed: int) -> torch.Tensor:
    """Logits (4, classes) of `model`, which is on the CPU and is left in eval mode."""
    images = normalise(_canary_images(seed), normalisation.mean, normalisation.std)
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        logits: torch.Tensor = model.eval()(images)
    return logits


def _canary_images(seed: int) -> torch.Tensor:
    """Random images (4, 3, 32, 32) uint8, the same on every machine.

    Raw output of the generator: NumPy fixes its bit streams for good, but not what it draws from them.
    """
    count = int(np.prod(_CANARY_SHAPE))
    words = np.random.PCG64(seed).random_raw(count // 8).astype("<u8")
    return torch.from_numpy(np.frombuffer(words.tobytes(), np.uint8).copy()).view(_CANARY_SHAPE)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous()


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _failed(version: int, cause: str) -> IntegrityError:
    return IntegrityError(f"version {version}: {cause}; use another version")
