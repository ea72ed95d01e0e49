"""How many CPUs there are for us: affinity, quotas of cgroups, and what follows from them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Home

from cifarctl import cpus
from cifarctl.serving import host_cache, ranking
from cifarctl.serving.ranking import REFERENCE

UNIFIED = "30 1 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
CPU_V1 = "33 31 0:30 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"


def tree(root: Path, membership: str, mounts: str, **files: str) -> Path:
    """A machine whose files these are; ``a__b`` is the folder a and its file b below /sys/fs/cgroup."""
    proc = root / "proc" / "self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(membership + "\n")
    (proc / "mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts + "\n")
    for name, text in files.items():
        path = root.joinpath("sys/fs/cgroup", *name.split("__"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.fixture(autouse=True)
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 16 CPUs, all of which the process may run on."""
    monkeypatch.setattr(os, "process_cpu_count", lambda: 16, raising=False)


def unified(root: Path, membership: str, **limits: str) -> int:
    files = {f"{folder}__cpu.max" if folder else "cpu.max": text for folder, text in limits.items()}
    return cpus.count(tree(root, membership, UNIFIED, **files))


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max 100000", 16), ("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("9900000 100000", 16)],
)
def test_a_quota_is_rounded_down_to_one_at_least(limit: str, expected: int, tmp_path: Path) -> None:
    assert unified(tmp_path, "0::/box", box=limit) == expected


def test_of_nested_groups_the_narrowest_counts(tmp_path: Path) -> None:
    limits = {"pod": "300000 100000", "pod__box": "max 100000", "pod__box__job": "800000 100000"}
    assert unified(tmp_path, "0::/pod/box/job", **limits) == 3


def test_a_container_that_sees_its_group_as_the_root(tmp_path: Path) -> None:
    assert cpus.count(tree(tmp_path, "0::/", UNIFIED, **{"cpu.max": "400000 100000"})) == 4


@pytest.mark.parametrize("root", ["/", "/docker/ab12"])
def test_version_1(root: str, tmp_path: Path) -> None:
    """A container sees the path of its group from outside, and as much of the tree as its own group inside."""
    place = "docker__ab12__" if root == "/" else ""
    files = {f"{place}cpu.cfs_quota_us": "350000", f"{place}cpu.cfs_period_us": "100000"}
    files = {f"cpu,cpuacct__{name}": text for name, text in files.items()}
    membership = "12:memory:/docker/ab12\n4:cpu,cpuacct:/docker/ab12\n0::/docker/ab12"
    assert cpus.count(tree(tmp_path, membership, CPU_V1.format(root=root), **files)) == 3


def test_version_1_without_a_limit(tmp_path: Path) -> None:
    files = {"cpu,cpuacct__cpu.cfs_quota_us": "-1", "cpu,cpuacct__cpu.cfs_period_us": "100000"}
    assert cpus.count(tree(tmp_path, "4:cpu,cpuacct:/", CPU_V1.format(root="/"), **files)) == 16


def test_a_mount_point_with_a_blank(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/", UNIFIED.replace("/sys/fs/cgroup", r"/sys/fs/my\040groups"))
    folder = root / "sys/fs/my groups"
    folder.mkdir(parents=True)
    (folder / "cpu.max").write_text("500000 100000\n")
    assert cpus.count(root) == 5


@pytest.mark.parametrize(
    "nonsense",
    ["", "max", "1 0", "x y", "-5 100000", f"1{'0' * 400} 100000", f"{'9' * 5000} 1"],
    ids=lambda text: text[:9],
)
def test_an_invalid_quota_limits_nothing(nonsense: str, tmp_path: Path) -> None:
    assert unified(tmp_path, "0::/box", box=nonsense) == 16


def test_a_path_that_cannot_be_one_limits_nothing(tmp_path: Path) -> None:
    assert cpus.count(tree(tmp_path, "0::/bo\0x", UNIFIED)) == 16


def test_another_system_has_none(tmp_path: Path) -> None:
    assert cpus.count(tmp_path) == 16


class Asked(Exception):
    """How many threads were asked for is known."""


def test_serve_takes_half_of_what_it_may_use(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """On 64 cores of which it may use two, one thread, not 32."""
    from cifarctl.flows import serve as flow
    from cifarctl.settings import RegistrySettings, Settings

    asked: list[int] = []

    def prepare(*arguments: Any, **options: Any) -> None:
        asked.append(arguments[3])
        raise Asked

    monkeypatch.setattr(os, "process_cpu_count", lambda: 2, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(flow, "prepare", prepare)
    with pytest.raises(Asked):
        next(flow.serve(Settings(registry=RegistrySettings(dir=home.registry.dir))))
    assert asked == [1]


def test_training_takes_no_more_than_it_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from helpers import DATA, TRAIN, load_data

    from cifarctl.flows import train as flow
    from cifarctl.settings import RegistrySettings, Settings

    def choose(*_: object) -> None:
        raise Asked

    monkeypatch.setattr(os, "process_cpu_count", lambda: 2, raising=False)
    monkeypatch.setattr(flow, "choose_device", choose)
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        options = TRAIN.model_copy(update={"threads": 0})
        settings = Settings(data=DATA, train=options, registry=RegistrySettings(dir=tmp_path))
        with pytest.raises(Asked):
            next(iter(flow.train(load_data()[0], settings)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def key() -> dict[str, Any]:
    return ranking.identity([REFERENCE], torch.device("cpu"))


@pytest.mark.parametrize("what", ["cpus", "processor", "library"])
def test_another_machine_or_library_is_measured_again(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a home folder that two machines share, or after an upgrade."""
    host_cache.write(key(), {"speed": 1.0})
    assert host_cache.read(key()) == {"speed": 1.0}
    if what == "cpus":
        monkeypatch.setattr(os, "process_cpu_count", lambda: 3, raising=False)
    elif what == "processor":
        cpuinfo = "processor : 0\nmodel name : Another\nflags : fpu avx512_bf16\n\nprocessor : 1\n"
        monkeypatch.setattr(Path, "read_text", lambda *_, **__: cpuinfo)
    else:
        monkeypatch.setattr("importlib.metadata.version", lambda package: f"99 of {package}")
    assert host_cache.read(key()) is None
