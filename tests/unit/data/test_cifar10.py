"""CIFAR-10: reading, downloading, and what is said when it is absent or altered."""

from __future__ import annotations

import hashlib
import pickle  # writes the fake batches that torchvision reads
import socket
import tarfile
import urllib.error
from pathlib import Path

import numpy as np
import pytest
from data_refusals import message
from torchvision.datasets import CIFAR10

from cifarctl.data import load
from cifarctl.settings import DataSettings

BATCHES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cifar-10-batches-py of four images a batch, whose md5s torchvision takes for the right ones."""
    root = tmp_path / "disk"
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    md5 = {}
    contents: dict[str, object] = {
        name: {
            "data": np.tile(np.arange(3072) // 128 * 10 + number, (4, 1)).astype(np.uint8),
            "labels": [number, 0, 1, 2],
        }
        for number, name in enumerate(BATCHES)
    }
    contents["batches.meta"] = {"label_names": [f"class {number}" for number in range(10)]}
    for name, content in contents.items():
        body = pickle.dumps(content)
        (folder / name).write_bytes(body)
        md5[name] = hashlib.md5(body).hexdigest()
    archive = root / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5[name]] for name in BATCHES[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5["batches.meta"]})
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    archive.rename(tmp_path / archive.name)
    return root


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """torchvision's downloader finds no network; returns the socket timeouts it was called under."""
    timeouts: list[float | None] = []

    def refuse(*arguments: object, **options: object) -> None:
        timeouts.append(socket.getdefaulttimeout())
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", refuse)
    return timeouts


def test_cifar10_loads_in_torchvisions_order(fake: Path) -> None:
    data = load(DataSettings(dir=fake))
    assert (data.name, len(data.train), len(data.test), data.notice) == ("cifar10", 20, 4, None)
    assert data.classes[3] == "class 3"
    assert data.train.labels[::4].tolist() == [0, 1, 2, 3, 4]
    assert data.test.labels.tolist() == [5, 0, 1, 2]
    assert data.train.pixels[:, 0, 0, 0].tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4
    assert data.test.pixels[0, :, 0, 0].tolist() == [5, 85, 165]  # red, green, blue planes of 1,024 bytes
    assert data.test.pixels[0, 0, :5, 0].tolist() == [5, 5, 5, 5, 15]  # 32 bytes a row
    assert data.train.pixels.is_contiguous()


def test_cifar10_reads_each_file_for_its_md5_once(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import cifar

    checked: list[str] = []
    check = cifar.check_integrity

    def count(path: str, md5: str) -> bool:
        checked.append(Path(path).name)
        return bool(check(path, md5))

    monkeypatch.setattr(cifar, "check_integrity", count)
    load(DataSettings(dir=fake))
    assert sorted(checked) == sorted([*BATCHES, "batches.meta", "batches.meta"])


@pytest.mark.parametrize("source", ["cifar10", "auto"])
@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("harm", ["cut", "changed", "removed"])
def test_cifar10_names_the_file_that_is_not_right(fake: Path, source: str, name: str, harm: str) -> None:
    path = fake / "cifar-10-batches-py" / name
    body = path.read_bytes()
    if harm == "removed":
        path.unlink()
    else:
        path.write_bytes(body[:-5] if harm == "cut" else body[:-5] + b"\0" + body[-4:])
    text = message(DataSettings(source=source, dir=fake))  # type: ignore[arg-type]
    assert text.startswith(f"{path} {'is missing' if harm == 'removed' else 'does not match its md5'}")
    assert "data.download=true" in text


def test_cifar10_unpacks_its_archive_without_a_network(fake: Path, tmp_path: Path, offline: list[object]) -> None:
    data = load(DataSettings(dir=tmp_path, download=False))
    assert data.name == "cifar10"
    assert len(data.train) == 20
    assert not offline
    assert not list(tmp_path.glob(".cifar10-*"))


@pytest.mark.parametrize("source", ["cifar10", "auto"])
def test_cifar10_names_an_altered_archive(fake: Path, tmp_path: Path, source: str) -> None:
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-10])
    text = message(DataSettings(source=source, dir=tmp_path))  # type: ignore[arg-type]
    assert text.startswith(f"{archive} does not match its md5")
    assert not (tmp_path / "cifar-10-batches-py").exists()


def test_cifar10_is_downloaded_when_absent(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = (tmp_path / "cifar-10-python.tar.gz").read_bytes()

    def fetch(url: str, path: str) -> None:
        print("Downloading")
        Path(path).write_bytes(archive)

    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, max_hops: url)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", fetch)
    target = tmp_path / "new" / "data"
    assert len(load(DataSettings(dir=target)).train) == 20
    assert [entry.name for entry in target.iterdir()] == ["cifar-10-batches-py"]
    # stdout belongs to results.
    assert capsys.readouterr() == ("", "Downloading\n")


def test_cifar10_offline_says_what_to_do(tmp_path: Path, offline: list[float | None]) -> None:
    target = tmp_path / "absent"
    text = message(DataSettings(source="cifar10", dir=target))
    for words in (
        "Name or service not known",
        f"put cifar-10-batches-py into {target}",
        "CIFARCTL_DATA__DIR",
        "data.source=synthetic",
    ):
        assert words in text
    assert offline
    assert set(offline) == {10.0}
    assert socket.getdefaulttimeout() is None
    assert not target.exists()


def test_a_download_that_is_cut_short_leaves_nothing_behind(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(url: str, path: str) -> None:
        Path(path).write_bytes(b"half of it")
        raise TimeoutError("timed out")

    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, max_hops: url)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", cut)
    target = tmp_path / "new"
    target.mkdir()
    assert "timed out" in message(DataSettings(source="cifar10", dir=target))
    assert not list(target.iterdir())


def test_cifar10_absent_with_download_off(tmp_path: Path, offline: list[object]) -> None:
    assert "data.download is false" in message(DataSettings(source="cifar10", dir=tmp_path, download=False))
    assert not offline


def test_auto_falls_back_on_synthetic_images_and_says_why(tmp_path: Path, offline: list[object]) -> None:
    data = load(DataSettings(dir=tmp_path / "absent", synthetic_images=500))
    assert data.name == "synthetic"
    assert data.notice is not None
    assert "instead of CIFAR-10" in data.notice
    assert "Name or service not known" in data.notice
    assert "not CIFAR-10's" in data.notice


def test_a_data_dir_that_is_the_batches_folder_itself(fake: Path) -> None:
    text = message(DataSettings(dir=fake / "cifar-10-batches-py"))
    assert "set data.dir to its parent folder" in text


def test_a_data_dir_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    assert str(path) in message(DataSettings(source="cifar10", dir=path))
