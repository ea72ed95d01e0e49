"""Work in progress on disk: tensors and a JSON document in one safetensors file, replaced atomically."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors

from cifarctl.errors import RegistryError
from cifarctl.registry.files import os_errors, replace_file

_STATE = "state"


def save(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
    allowed: AbstractContextManager[object] | None = None,
) -> None:
    """Replace `path` by these tensors and this JSON-able state, all or nothing; the rename happens within `allowed`.

    Raises:
        RegistryError: the file cannot be written.
    """
    # Cloned because safetensors refuses tensors that share memory.
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    replace_file(path, safetensors.save(own, metadata={_STATE: json.dumps(state)}), allowed)


def within(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def discard(path: Path) -> None:
    """Delete a checkpoint, if it is there.

    Raises:
        RegistryError: it cannot be deleted.
    """
    with os_errors(path):
        path.unlink(missing_ok=True)


def load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """The tensors and state of `path`, or None where there is no such file.

    Raises:
        RegistryError: the file is not a checkpoint.
    """
    try:
        content = path.read_bytes()
        tensors = safetensors.load(content)
        (length,) = struct.unpack_from("<Q", content)  # safetensors.load drops the metadata of the header
        state: dict[str, Any] = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_STATE])
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise RegistryError(f"{path} cannot be read ({error}); move it away to start over") from None
    return tensors, state
