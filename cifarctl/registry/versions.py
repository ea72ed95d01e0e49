"""Version folders: listed, read and checked against their hashes by anyone; written by the holder of the lock."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic_core import PydanticSerializationError

from cifarctl.errors import IntegrityError, ModelTooLarge, RegistryError, VersionNotFound
from cifarctl.registry.files import entries, make_directory, os_errors, staged, sync_directory, write_file
from cifarctl.registry.layout import (
    MANIFEST_FILE,
    MODEL_FILE,
    PLOTS,
    VERSIONS,
    folder_name,
    tombstone_name,
    version_of_folder,
    version_of_tombstone,
    version_of_trash,
)
from cifarctl.registry.manifest import Draft, Manifest, parse
from cifarctl.registry.pointers import Pointers

_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_MIB = 1 << 20
MANIFEST_LIMIT_MIB = 64  # a manifest takes some kilobytes; a file far beyond that is not read into memory
LISTED = 10  # versions that an error message lists


class Versions:
    """The versions of a registry as readers see them; no lock is needed.

    Every method raises RegistryError when the folder cannot be read.
    """

    def __init__(self, registry: Path, pointers: Pointers, max_model_mb: int) -> None:
        self._dir = registry.absolute()  # so that every error names the whole path
        self._versions = self._dir / VERSIONS
        self._pointers = pointers
        self._max_model_mb = max_model_mb

    @property
    def dir(self) -> Path:
        """The registry's folder, as an absolute path."""
        return self._dir

    def numbers(self) -> list[int]:
        """Numbers of the visible versions, ascending; reads no manifest."""
        found = [number for name in entries(self._versions) if (number := version_of_folder(name)) is not None]
        return sorted(number for number in found if (self._versions / folder_name(number)).is_dir())

    def path(self, version: int) -> Path:
        """The folder of one version.

        Raises:
            VersionNotFound: there is no such version.
        """
        path = self._versions / folder_name(version)
        if not path.is_dir():
            raise VersionNotFound(f"no version {version} in {self.dir}; there is {self._inventory()}")
        return path

    def plots(self, version: int) -> list[Path]:
        """The figures that were published with a version, by name."""
        folder = self.path(version) / PLOTS
        return [folder / name for name in entries(folder)]

    def versions(self) -> list[Manifest]:
        """The manifests of all versions, ascending.

        Raises:
            IntegrityError: a manifest cannot be parsed; the message names the file.
        """
        manifests = []
        for number in self.numbers():
            try:
                manifests.append(self.manifest(number))
            except VersionNotFound:  # removed since it was listed
                continue
        return manifests

    def manifest(self, version: int) -> Manifest:
        """The manifest of one version.

        Raises:
            VersionNotFound: there is no such version.
            IntegrityError: its manifest is missing, cannot be parsed, or belongs to another version.
        """
        path = self.path(version) / MANIFEST_FILE
        manifest = parse(self._read(version, path, limit=MANIFEST_LIMIT_MIB * _MIB), path)
        if manifest.version != version:
            raise IntegrityError(f"{path}: says version {manifest.version}, not {version}; use another version")
        return manifest

    def read_weights(self, version: int) -> tuple[Manifest, bytes]:
        """The manifest and the content of the model file, read once and compared with the manifest's sha256.

        Raises:
            VersionNotFound: there is no such version.
            IntegrityError: a file is missing, too large, or differs from what was published.
        """
        manifest = self.manifest(version)
        path = self.path(version) / MODEL_FILE
        weights = self._read(version, path, limit=self._max_model_mb * _MIB)
        actual = hashlib.sha256(weights).hexdigest()
        if actual != manifest.sha256:
            raise IntegrityError(
                f"version {version}: {path} has sha256 {actual} ({len(weights)} bytes), its manifest expects "
                f"{manifest.sha256} ({manifest.bytes} bytes); use another version"
            )
        return manifest, weights

    def verify(self, version: int) -> list[str]:
        """Problems with the files of a version, one line each; empty if it is sound. Needs no torch.

        Raises:
            VersionNotFound: there is no such version.
        """
        folder = self.path(version)
        unknown = set(entries(folder)) - {MODEL_FILE, MANIFEST_FILE, PLOTS}
        problems = [f"{folder / name}: does not belong to a version" for name in sorted(unknown)]
        if (tombstone := self._versions / tombstone_name(version)).exists():
            problems.append(f"{folder}: {tombstone.name} says that it was deleted, so it came from elsewhere")
        try:
            manifest = self.manifest(version)
        except IntegrityError as error:
            return [*problems, str(error)]
        model = folder / MODEL_FILE
        if not model.is_file():
            return [*problems, f"{model}: missing"]
        size, digest = _size_and_digest(model)
        if size != manifest.bytes:
            problems.append(f"{model}: {size} bytes, the manifest says {manifest.bytes}")
        if digest != manifest.sha256:
            problems.append(f"{model}: sha256 {digest}, the manifest says {manifest.sha256}")
        return problems

    def _inventory(self) -> str:
        """The existing versions and aliases, for error messages."""
        numbers = self.numbers()
        if not numbers:
            return "none yet: `cifarctl train` makes one"
        listed = ", ".join(str(number) for number in numbers[-LISTED:])
        aliases = "".join(f", {name} = {alias.version}" for name, alias in self._pointers.aliases().items())
        return f"{'... ' if len(numbers) > LISTED else ''}{listed}{aliases}"

    def _read(self, version: int, path: Path, limit: int) -> bytes:
        with os_errors(path):
            try:
                with path.open("rb") as file:
                    content = file.read(limit + 1) if path.stat().st_size <= limit else None
            except FileNotFoundError:
                self.path(version)  # raises where the version was removed meanwhile; else the version is damaged
                raise IntegrityError(f"version {version}: {path} is missing; use another version") from None
        if content is None or len(content) > limit:
            raise IntegrityError(
                f"version {version}: {path} is larger than {limit // _MIB} MiB; "
                "raise registry.max_model_mb if it should be"
            )
        return content


def require_publishable(weights: bytes, files: Mapping[str, bytes], max_model_mb: int) -> None:
    """Refuse what could not be loaded again or would lie outside its folder.

    Raises:
        ModelTooLarge: the weights exceed `max_model_mb` MiB.
        RegistryError: a file's name is not a plain one.
    """
    if len(weights) > max_model_mb * _MIB:
        raise ModelTooLarge(
            f"registry.max_model_mb = {max_model_mb}: the model has {len(weights) / _MIB:.1f} MiB; raise it"
        )
    for name in files:
        if _FILE_NAME.fullmatch(name) is None:
            raise RegistryError(f"file name {name!r}: not allowed; use letters, digits, '.', '_' and '-'")


def next_number(versions: Path, mentioned: set[int]) -> int:
    """A number above all that were ever used: by versions in that folder, or `mentioned` by the history."""
    names = entries(versions)
    parsers = (version_of_folder, version_of_tombstone, version_of_trash)
    used = {number for name in names for parse_name in parsers if (number := parse_name(name)) is not None}
    return max(used | mentioned, default=0) + 1


def write_version(
    versions: Path,
    number: int,
    created: str,
    draft: Draft,
    weights: bytes,
    digest: str,
    files: Mapping[str, bytes],
) -> Manifest:
    """Make a version in that folder, visible whole or not at all; the caller holds the lock.

    `digest` is the SHA-256 of `weights`.

    Raises:
        RegistryError: it cannot be written.
    """
    make_directory(versions)
    target = versions / folder_name(number)
    facts = {
        "version": number,
        "created": created,
        "sha256": digest,
        "bytes": len(weights),
    }
    text = _manifest_text(draft, facts)
    manifest = parse(text, target / MANIFEST_FILE)
    with staged(target) as staging:
        write_file(staging / MODEL_FILE, weights)
        write_file(staging / MANIFEST_FILE, text)
        if files:
            make_directory(staging / PLOTS)
            for name in files:
                write_file(staging / PLOTS / name, files[name])
            sync_directory(staging / PLOTS)
    return manifest


def _manifest_text(draft: Draft, facts: dict[str, Any]) -> bytes:
    try:
        content = draft.model_dump(mode="json") | facts
        return json.dumps(content, indent=2, allow_nan=False).encode() + b"\n"
    except (PydanticSerializationError, TypeError, ValueError) as error:
        cause = str(error).splitlines()[0]
        raise RegistryError(f"the manifest cannot be written as JSON ({cause}); change its settings") from None


def _size_and_digest(path: Path) -> tuple[int, str]:
    """Size in bytes and sha256 of a file, which is read in blocks."""
    digest, size = hashlib.sha256(), 0
    with os_errors(path), path.open("rb") as file:
        while block := file.read(_MIB):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()
