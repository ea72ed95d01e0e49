"""What the command line answers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from helpers import Home, cifarctl
from PIL import Image
from typer.testing import Result


def fails(code: int, *arguments: str | Path, stdout: bool = False) -> str:
    """Run a command that ends with `code`; the one line that it says of it.

    `stdout`: whether a result comes before the failure.
    """
    result = cifarctl(*arguments)
    return one_line(result, code, stdout=stdout)


def one_line(result: Result | subprocess.CompletedProcess[str], code: int, *, stdout: bool = False) -> str:
    found = result.exit_code if isinstance(result, Result) else result.returncode
    assert found == code, result.stderr
    assert "Traceback" not in result.stderr
    assert bool(result.stdout) == stdout, result.stdout
    lines = [line for line in result.stderr.splitlines() if line.startswith("cifarctl: ")]
    assert len(lines) == 1
    assert result.stderr.splitlines()[-1] == lines[0]
    return lines[0].removeprefix("cifarctl: ")


def document(*arguments: str | Path, code: int = 0) -> Any:
    """The JSON that a command writes, and nothing else on stdout."""
    result = cifarctl(*arguments, "--json")
    assert result.exit_code == code, result.stderr
    assert len(result.stdout.splitlines()) == 1
    return json.loads(result.stdout)


def flip(home: Home, version: int = 1) -> Path:
    """Flip a bit in the middle of a version's weights."""
    path = home.registry.path(version) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def picture_folders(directory: Path, parts: dict[str, tuple[str, ...]], count: int = 4) -> Path:
    """A data set of small pictures: ``parts`` names the classes of each part."""
    generator = np.random.default_rng(0)
    for part, classes in parts.items():
        for name in classes:
            folder = directory / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return directory
