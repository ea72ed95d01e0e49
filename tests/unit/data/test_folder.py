"""Folders of pictures, and the cache of their pixels."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from data_refusals import message
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from cifarctl.data import folder, load, pixelcache
from cifarctl.settings import DataSettings


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
