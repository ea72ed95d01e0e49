from __future__ import annotations

import hashlib
import json
import pickle  # writes the fake batches that torchvision reads
import shutil
import socket
import struct
import tarfile
import urllib.error
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import CIFAR10

from cifarctl.data import Images, augment, folder, load, pixelcache, split, synthetic
from cifarctl.errors import DataError
from cifarctl.settings import DataSettings

SHARES = (0.7, 0.1, 0.2)
BATCHES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]


def message(settings: DataSettings) -> str:
    """The one line of the DataError that loading must raise."""
    with pytest.raises(DataError) as caught:
        load(settings)
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- split ----------------------------------------------------------------------------------------


@st.composite
def label_lists(draw: st.DrawFn) -> list[int]:
    counts = draw(st.lists(st.integers(3, 60), min_size=1, max_size=6))
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    return draw(st.permutations(labels))


@st.composite
def share_triples(draw: st.DrawFn) -> tuple[float, float, float]:
    first, second, third = (draw(st.integers(1, 100)) for _ in range(3))
    total = first + second + third
    return first / total, second / total, third / total


@given(label_lists(), share_triples(), st.integers(0, 2**32))
def test_split_is_a_stratified_partition(labels: list[int], shares: tuple[float, float, float], seed: int) -> None:
    tensor = torch.tensor(labels)
    parts = split(tensor, shares, seed)
    indices = (parts.train, parts.validation, parts.stream)
    assert sorted(torch.cat(indices).tolist()) == list(range(len(labels)))
    for index, share in zip(indices, shares, strict=True):
        assert index.dtype == torch.int64
        assert index.tolist() == sorted(index.tolist())
        for label in set(labels):
            held = int((tensor[index] == label).sum())
            # One image of rounding, and up to two more that the other parts had to be given.
            assert held >= 1
            assert abs(held - share * labels.count(label)) <= 3


@given(label_lists(), st.integers(0, 1000))
def test_split_repeats_for_a_seed_and_differs_between_seeds(labels: list[int], seed: int) -> None:
    tensor = torch.tensor(labels)
    first, again, other = (split(tensor, SHARES, each) for each in (seed, seed, seed + 1))
    assert first.sha256 == again.sha256 != other.sha256
    assert torch.equal(first.train, again.train)
    assert torch.equal(first.stream, again.stream)


def test_split_of_cifar10s_size_is_exact_and_the_same_everywhere() -> None:
    labels = torch.arange(50_000) % 10
    parts = split(labels, SHARES, 0)
    for index, each in ((parts.train, 3500), (parts.validation, 500), (parts.stream, 1000)):
        assert labels[index].bincount().tolist() == [each] * 10
    # Recorded: registries hold this digest, so it must never change.
    assert parts.sha256 == "367e54db4c824c2d63b0ed6472ef3345e3ae16ca9b7a90088c54cf64a548540b"
    assert not torch.equal(parts.stream, split(labels, SHARES, 1).stream)


def test_split_depends_on_the_labels_alone_for_each_class() -> None:
    labels = torch.arange(300) % 3
    renamed = torch.where(labels == 2, 7, labels)
    assert torch.equal(
        split(labels, SHARES, 5).train[labels[split(labels, SHARES, 5).train] < 2],
        split(renamed, SHARES, 5).train[renamed[split(renamed, SHARES, 5).train] < 2],
    )


@pytest.mark.parametrize("count", [1, 2])
def test_split_refuses_a_class_that_cannot_be_in_every_part(count: int) -> None:
    with pytest.raises(DataError, match=rf"class 4 has {count} training image"):
        split(torch.tensor([0] * 10 + [4] * count), SHARES, 0)


def test_split_refuses_no_images() -> None:
    with pytest.raises(DataError, match="no training images"):
        split(torch.empty(0, dtype=torch.int64), SHARES, 0)


# --- augment --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("padding", "flip"), [(0, True), (2, False), (2, True), (4, True), (31, False)])
def test_augment_crops_the_reflected_image(padding: int, flip: bool) -> None:
    pixels = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    before = pixels.clone()
    augmented = augment(pixels, torch.Generator().manual_seed(2), crop_padding=padding, flip=flip)
    assert torch.equal(pixels, before)
    assert augmented.dtype == torch.uint8
    assert augmented.shape == pixels.shape
    border = ((0, 0), (padding, padding), (padding, padding))
    for original, result in zip(pixels.numpy(), augmented.numpy(), strict=True):
        padded = np.pad(original, border, mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (32, 32), (1, 2))
        plain = (windows == result[:, None, None]).all(axis=(0, 3, 4)).any()
        mirrored = (windows == result[:, None, None, :, ::-1]).all(axis=(0, 3, 4)).any()
        assert plain or (flip and mirrored)


def test_augment_reaches_every_offset_equally_and_mirrors_half() -> None:
    image = torch.arange(32 * 32).remainder(251).to(torch.uint8).view(1, 1, 32, 32)
    augmented = augment(image.expand(4000, 3, 32, 32), torch.Generator().manual_seed(0), crop_padding=1, flip=True)
    kinds, counts = augmented.flatten(1).unique(dim=0, return_counts=True)
    assert len(kinds) == 18  # nine places, twice
    assert counts.min() > 4000 / 18 * 0.7
    assert counts.max() < 4000 / 18 * 1.3


def test_augment_repeats_for_a_generator_and_may_do_nothing() -> None:
    pixels = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    first, again = (augment(pixels, torch.Generator().manual_seed(3), crop_padding=4, flip=True) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(augment(pixels, torch.Generator(), crop_padding=0, flip=False), pixels)
    assert augment(pixels[:0], torch.Generator(), crop_padding=2, flip=True).shape == (0, 3, 32, 32)


# --- synthetic ------------------------------------------------------------------------------------


def test_synthetic_images_repeat_for_a_seed() -> None:
    first, again, other = synthetic.draw(60, 1), synthetic.draw(60, 1), synthetic.draw(60, 2)
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.pixels, other.pixels)


def test_synthetic_classes_are_balanced_and_mixed() -> None:
    images = synthetic.draw(503, 0)
    counts = images.labels.bincount()
    assert len(counts) == len(synthetic.CLASSES) == len(set(synthetic.CLASSES)) == 10
    assert counts.max() - counts.min() <= 1
    assert images.labels[:50].unique().numel() > 5
    assert images.pixels.shape == (503, 3, 32, 32)
    assert images.pixels.dtype == torch.uint8
    # No image is blank: the picture differs from its own mean by more than the noise does.
    assert images.pixels.float().std(dim=(1, 2, 3)).min() > 5


def test_synthetic_source_says_that_it_is_not_cifar10() -> None:
    data = load(DataSettings(source="synthetic", synthetic_images=500))
    assert (data.name, len(data.train), len(data.test)) == ("synthetic", 500, 100)
    assert data.notice is not None
    assert "not CIFAR-10's" in data.notice
    assert data.classes == synthetic.CLASSES
    assert not torch.equal(data.train.pixels[:100], data.test.pixels)


def test_images_take_copies() -> None:
    images = Images(torch.zeros((4, 3, 32, 32), dtype=torch.uint8), torch.arange(4))
    taken = images.take(torch.tensor([3, 1]))
    taken.pixels.fill_(9)
    assert taken.labels.tolist() == [3, 1]
    assert len(taken) == 2
    assert images.pixels.max() == 0


# --- folder ---------------------------------------------------------------------------------------


def picture(path: Path, size: tuple[int, int] = (32, 32), colour: object = (10, 200, 30), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)  # type: ignore[arg-type]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three classes of odd sizes and modes; test lacks the class ``cow``."""
    root = tmp_path / "pictures"
    picture(root / "train/bee/1.png", (32, 32), (255, 0, 0))
    picture(root / "train/bee/2.PNG", (7, 90), (255, 0, 0))
    picture(root / "train/ant/grey.jpeg", (40, 33), 128, "L")
    picture(root / "train/ant/seen through.png", (500, 300), (0, 0, 255, 128), "RGBA")
    picture(root / "train/cow/palette.png", (20, 20), 3, "P")
    picture(root / "test/ant/1.jpg", (64, 64), (0, 255, 0))
    picture(root / "test/bee/1.png", (1, 1), (9, 8, 7))
    (root / "train/ant/notes.txt").write_text("no picture")
    (root / "train/.hidden").mkdir()
    return root


def test_folder_reads_any_size_and_mode(pictures: Path) -> None:
    data = load(DataSettings(source="folder", dir=pictures))
    assert data.classes == ("ant", "bee", "cow")
    assert data.notice is None
    assert data.train.labels.tolist() == [0, 0, 1, 1, 2]
    assert data.test.labels.tolist() == [0, 1]
    assert data.train.pixels.shape == (5, 3, 32, 32)
    assert data.train.pixels.dtype == torch.uint8
    for image, colour in zip(
        data.train.pixels[:4], [(128, 128, 128), (0, 0, 255), (255, 0, 0), (255, 0, 0)], strict=True
    ):
        assert (image.int() - torch.tensor(colour).view(3, 1, 1)).abs().max() <= 2
    assert data.test.pixels[1, :, 0, 0].tolist() == [9, 8, 7]


def test_folder_keeps_pictures_of_the_right_size_exactly(pictures: Path) -> None:
    exact = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(exact).save(pictures / "train/ant/a.png")
    data = load(DataSettings(source="folder", dir=pictures))
    assert np.array_equal(data.train.pixels[0].permute(1, 2, 0).numpy(), exact)


def test_folder_shrinks_without_aliasing(pictures: Path) -> None:
    board = (np.indices((320, 320)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(pictures / "train/ant/a.png")
    data = load(DataSettings(source="folder", dir=pictures))
    assert (data.train.pixels[0].int() - 127).abs().max() <= 3


def test_folder_keeps_the_shades_of_16_bit_pictures(pictures: Path) -> None:
    shades = np.full((32, 32), 100 * 256, np.uint16)
    Image.fromarray(shades).save(pictures / "train/ant/a.png")
    data = load(DataSettings(source="folder", dir=pictures))
    assert data.train.pixels[0].unique().tolist() == [100]


# Pictures are decoded once, into a file of the user's cache.


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cifarctl" / "images"


def undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on no picture can be decoded."""

    def refuse(path: Path) -> None:
        raise AssertionError(f"{path} was decoded again")

    monkeypatch.setattr(folder, "_decode", refuse)


def test_pictures_are_decoded_once_and_mapped(pictures: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = DataSettings(source="folder", dir=pictures)
    first = load(settings)
    assert len(list(cache.glob("*.pixels"))) == 2
    for path in cache.glob("*.pixels"):
        assert path.stat().st_mode & 0o077 == 0
        header = json.loads(path.read_bytes()[:4096])
        content = path.read_bytes()[4096:]
        assert (header["bytes"], header["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    undecoded(monkeypatch)
    again = load(settings)
    assert torch.equal(again.train.pixels, first.train.pixels)
    assert torch.equal(again.test.pixels, first.test.pixels)
    again.train.pixels.zero_()  # is nobody else's
    assert torch.equal(load(settings).train.pixels, first.train.pixels)


def change(path: Path) -> None:
    picture(path, (32, 32), (0, 255, 255))


@pytest.mark.parametrize(
    "how",
    [
        lambda root: change(root / "train/bee/1.png"),
        lambda root: change(root / "train/bee/9.png"),
        lambda root: (root / "train/bee/2.PNG").unlink(),
        lambda root: (root / "train/bee/2.PNG").rename(root / "train/bee/0.png"),
    ],
    ids=["changed", "added", "removed", "renamed"],
)
def test_other_pictures_are_decoded_anew(how: Callable[[Path], object], pictures: Path, cache: Path) -> None:
    settings = DataSettings(source="folder", dir=pictures)
    load(settings)
    how(pictures)
    found = load(settings)
    for stored in cache.glob("*.pixels"):
        stored.unlink()
    fresh = load(settings)
    assert torch.equal(found.train.pixels, fresh.train.pixels)
    assert torch.equal(found.train.labels, fresh.train.labels)


@given(damage=st.one_of(st.binary(max_size=40), st.integers(0, 5 * 3072 + 4095)))
@example(damage=b"[" * 4096)
def test_a_damaged_cache_is_made_anew(damage: bytes | int, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("damaged")
    paths = [root / f"{number}.png" for number in range(5)]
    for path in paths:
        picture(path)
    wanted = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root))
        for _ in range(2):
            found = pixelcache.pixels(paths, (3, 32, 32), lambda: [wanted[:3], wanted[3:]])
            assert np.array_equal(found, wanted)
            del found
            (stored,) = (root / "cifarctl" / "images").glob("*.pixels")
            content = bytearray(stored.read_bytes())
            if isinstance(damage, int):
                content[damage] ^= 0xFF
            stored.write_bytes(content if isinstance(damage, int) else damage)


def test_without_room_for_a_cache_pictures_are_held(
    pictures: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DataSettings(source="folder", dir=pictures)
    expected = load(settings)
    for stored in cache.iterdir():
        stored.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        assert torch.equal(load(settings).train.pixels, expected.train.pixels)
    assert list(cache.glob("*.pixels")) == []
    (cache / ".lock").unlink(missing_ok=True)
    cache.rmdir()
    cache.write_text("a file in its place")
    assert torch.equal(load(settings).train.pixels, expected.train.pixels)


def test_what_takes_long_is_announced(pictures: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "NOTICE_FILES", 5)
    told: list[str] = []
    for _ in range(2):
        load(DataSettings(source="folder", dir=pictures), told.append)
    assert told == ["decoding 5 images; the result is cached until they change"]


def test_nothing_is_kept_of_pictures_that_cannot_be_read(pictures: Path, cache: Path) -> None:
    (pictures / "train/cow/palette.png").write_text("no picture")
    message(DataSettings(source="folder", dir=pictures))
    assert [path for path in cache.iterdir() if path.name != ".lock"] == []


def test_the_longest_unused_go(pictures: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixelcache, "MAX_BYTES", 10_000)
    settings = DataSettings(source="folder", dir=pictures)
    load(settings)
    (cache / "left by a killed writer.part").touch()
    change(pictures / "train/bee/1.png")
    load(settings)
    undecoded(monkeypatch)
    load(settings)  # what was used last is still there
    assert len([path for path in cache.iterdir() if path.name != ".lock"]) == 2


@pytest.mark.parametrize("part", ["train", "test"])
def test_folder_names_the_absent_part(pictures: Path, part: str) -> None:
    (pictures / part).rename(pictures / "elsewhere")
    assert str(pictures / part) in message(DataSettings(source="folder", dir=pictures))


def test_folder_names_a_class_without_pictures(pictures: Path) -> None:
    (pictures / "train/dog").mkdir()
    text = message(DataSettings(source="folder", dir=pictures))
    assert f"{pictures / 'train/dog'} contains no images" in text


def test_folder_names_a_class_that_train_lacks(pictures: Path) -> None:
    picture(pictures / "test/emu/1.png")
    text = message(DataSettings(source="folder", dir=pictures))
    assert str(pictures / "test/emu") in text
    assert "train has no class emu" in text


def test_folder_needs_two_classes(tmp_path: Path) -> None:
    picture(tmp_path / "train/only/1.png")
    picture(tmp_path / "test/only/1.png")
    assert "at least 2" in message(DataSettings(source="folder", dir=tmp_path))


def test_folder_needs_something_to_test_on(pictures: Path) -> None:
    (pictures / "test").rename(pictures / "elsewhere")
    (pictures / "test").mkdir()
    assert "no class folder" in message(DataSettings(source="folder", dir=pictures))


@pytest.mark.parametrize("keep", [0, 8, 40, 70])
def test_folder_names_a_truncated_picture(pictures: Path, keep: int) -> None:
    path = pictures / "train/bee/1.png"
    path.write_bytes(path.read_bytes()[:keep])
    text = message(DataSettings(source="folder", dir=pictures))
    assert f"{path} cannot be read as a picture" in text


def test_folder_names_a_picture_that_is_none(pictures: Path) -> None:
    (pictures / "test/ant/1.jpg").write_text("<svg/>")
    assert str(pictures / "test/ant/1.jpg") in message(DataSettings(source="folder", dir=pictures))


@pytest.mark.parametrize("side", [8_000, 12_000, 60_000])  # around the limits at which Pillow warns and raises
def test_folder_refuses_a_bomb_before_decoding_it(pictures: Path, side: int) -> None:
    path = pictures / "train/cow/bomb.png"

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    text = message(DataSettings(source="folder", dir=pictures))
    assert str(path) in text
    assert "50,000,000 pixels" in text


# --- CIFAR-10 -------------------------------------------------------------------------------------


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


@pytest.mark.cifar10
def test_the_real_cifar10(cifar10_dir: Path) -> None:
    data = load(DataSettings(source="cifar10", dir=cifar10_dir, download=False))
    assert (len(data.train), len(data.test)) == (50_000, 10_000)
    assert data.classes[0] == "airplane"
    assert data.train.labels.bincount().tolist() == [5000] * 10
    mean = data.train.pixels.float().mean(dim=(0, 2, 3)) / 255
    assert mean.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
    parts = split(data.train.labels, SHARES, 0)
    assert [len(index) for index in (parts.train, parts.validation, parts.stream)] == [35_000, 5_000, 10_000]
