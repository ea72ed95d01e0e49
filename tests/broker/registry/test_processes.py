"""The registry among several processes: killed publishers, and what listing imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import draft
from registries import open_registry, publish

from cifarctl.registry import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(tmp_path)


# --- publishing and reading


def test_listing_imports_no_torch() -> None:
    code = "import sys, cifarctl.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- crashes


PUBLISH_AND_HANG = """
import sys, time
from collections.abc import Mapping
from pathlib import Path
from cifarctl.registry import Draft, Registry
from cifarctl.settings import RegistrySettings

class Stuck(Mapping):
    def __iter__(self): return iter(["plot.png"])
    def __len__(self): return 1
    def __getitem__(self, name):
        print("half-way", flush=True)
        time.sleep(600)

Registry(RegistrySettings(dir=Path(sys.argv[1]))).publish(
    Draft.model_validate_json(sys.argv[2]), b"weights", Stuck())
"""


def test_a_publisher_killed_half_way_leaves_no_version(registry: Registry) -> None:
    publish(registry)
    command = [sys.executable, "-c", PUBLISH_AND_HANG, str(registry.dir), draft().model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half-way\n"
        process.kill()
    assert registry.numbers() == [1]
    assert len(list((registry.dir / "versions").iterdir())) == 2
    assert publish(registry) == [2]
    (removed,) = registry.gc()
    assert removed.version is None
    assert removed.bytes > len(b"weights")
    assert sorted(entry.name for entry in (registry.dir / "versions").iterdir()) == ["000001", "000002"]
