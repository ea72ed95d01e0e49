from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cifarctl.data import Scenario
from cifarctl.data.drift import OPERATIONS, PRESETS
from cifarctl.errors import SettingsError

STRENGTHS = {
    "noise": "0.2",
    "contrast": "0.4",
    "brightness": "1.5",
    "saturation": "0",
    "rotate": "-30",
    "pixelate": "8",
    "blur": "1.5",
    "occlude": "0.5",
}


def written(name: str) -> str:
    return f"{name}:{STRENGTHS[name]}" if name in STRENGTHS else name


def images(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    # Smooth in places and sharp in others, so that every operation shows.
    coarse = torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8, generator=generator)
    return coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)


@st.composite
def scenarios(draw: st.DrawFn) -> str:
    pieces = []
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(sorted(OPERATIONS)))
        start = draw(st.integers(0, 20))
        end = start + draw(st.integers(1, 20))
        pieces.append(f"{written(name)}@{draw(st.sampled_from(['', '~']))}{start}-{end}")
    return ",".join(pieces)


@given(scenarios(), st.sets(st.integers(1, 23)), st.integers(0, 10), st.integers(0, 3))
def test_drift_does_not_depend_on_how_the_stream_is_cut(text: str, cuts: set[int], origin: int, seed: int) -> None:
    scenario, pixels = Scenario.parse(text), images(24)
    whole = scenario.apply(pixels, origin, seed)
    edges = [0, *sorted(cuts), 24]
    pieces = [scenario.apply(pixels[low:high], origin + low, seed) for low, high in itertools.pairwise(edges)]
    assert torch.equal(torch.cat(pieces), whole)


@given(scenarios())
def test_the_stream_is_clean_outside_every_range(text: str) -> None:
    scenario, pixels = Scenario.parse(text), images(50)
    drifted = scenario.apply(pixels, 0, 0)
    assert torch.equal(pixels, images(50))
    assert drifted.dtype == torch.uint8
    assert drifted.shape == pixels.shape
    for position in range(50):
        if scenario.active(position) == "clean":
            assert torch.equal(drifted[position], pixels[position])
    changes = {position for position in range(1, 50) if scenario.active(position) != scenario.active(position - 1)}
    assert changes <= set(scenario.boundaries())


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_operation_changes_exactly_its_range(name: str) -> None:
    pixels = images(8)
    drifted = Scenario.parse(f"{written(name)}@102-105").apply(pixels, 100, 0)
    changed = [not torch.equal(a, b) for a, b in zip(drifted, pixels, strict=True)]
    assert changed == [False, False, True, True, True, False, False, False]


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_a_ramp_goes_from_none_to_full(name: str) -> None:
    pixels = images(1).expand(11, 3, 32, 32)
    ramp = Scenario.parse(f"{written(name)}@~0-11").apply(pixels, 0, 0)
    full = Scenario.parse(f"{written(name)}@0-11").apply(pixels, 0, 0)
    assert torch.equal(ramp[0], pixels[0])
    assert torch.equal(ramp[10], full[10])
    assert not torch.equal(ramp[5], pixels[5])
    assert not torch.equal(ramp[5], full[5])


def test_what_the_exact_operations_do() -> None:
    pixels = images(2)
    assert torch.equal(Scenario.parse("swap@0-2").apply(pixels, 0, 0), pixels[:, [2, 0, 1]])
    assert torch.equal(Scenario.parse("invert@0-2").apply(pixels, 0, 0), 255 - pixels)
    gray = Scenario.parse("grayscale@0-2").apply(pixels, 0, 0)
    assert torch.equal(gray[:, 0], gray[:, 2])
    assert torch.equal(Scenario.parse("saturation:0@0-2").apply(pixels, 0, 0)[:, 0], gray[:, 0])
    assert Scenario.parse("brightness:0@0-2").apply(pixels, 0, 0).max() == 0
    turned = Scenario.parse("rotate:180@0-2").apply(pixels, 0, 0)
    assert torch.equal(turned, pixels.flip(2, 3))
    small = Scenario.parse("pixelate:4@0-2").apply(pixels, 0, 0)
    assert torch.equal(small, small[:, :, ::8, ::8].repeat_interleave(8, 2).repeat_interleave(8, 3))


def test_noise_has_the_standard_deviation_it_says() -> None:
    grey = torch.full((50, 3, 32, 32), 128, dtype=torch.uint8)
    noisy = Scenario.parse("noise:0.1@0-50").apply(grey, 0, 0).float()
    assert noisy.std() == pytest.approx(25.5, rel=0.02)
    assert noisy.mean() == pytest.approx(128, abs=0.5)


def test_occlusion_hides_a_square_of_its_share_somewhere_inside() -> None:
    white = torch.full((200, 3, 32, 32), 255, dtype=torch.uint8)
    hidden = Scenario.parse("occlude:0.25@0-200").apply(white, 0, 0) == 0
    assert (hidden.sum(dim=(1, 2, 3)) == 3 * 8 * 8).all()
    corners = hidden[:, 0].flatten(1).int().argmax(dim=1)
    assert corners.unique().numel() > 100
    assert torch.equal(
        Scenario.parse("occlude:1@0-1").apply(white[:1], 0, 0), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    )


def test_randomness_differs_by_position_seed_and_range() -> None:
    pixels = torch.full((2, 3, 32, 32), 128, dtype=torch.uint8)
    once = Scenario.parse("noise:0.1@0-10")
    drifted = once.apply(pixels, 0, 0)
    assert not torch.equal(drifted[0], drifted[1])
    assert not torch.equal(drifted, once.apply(pixels, 0, 1))
    # The same noise twice would have twice the deviation, two noises have sqrt(2) times.
    twice = Scenario.parse("noise:0.1@0-10,noise:0.1@0-10").apply(pixels, 0, 0).float()
    assert twice.std() == pytest.approx(25.5 * 2**0.5, rel=0.05)


def test_overlapping_ranges_compose_in_the_order_written() -> None:
    pixels = images(4)
    first = Scenario.parse("brightness:0.5@0-4,invert@2-4").apply(pixels, 0, 0)
    second = Scenario.parse("invert@2-4,brightness:0.5@0-4").apply(pixels, 0, 0)
    darker = Scenario.parse("brightness:0.5@0-4").apply(pixels, 0, 0)
    assert torch.equal(first[:2], darker[:2])
    assert torch.equal(first[2:], 255 - darker[2:])
    assert torch.equal(first[:2], second[:2])
    assert not torch.equal(first[2:], second[2:])


def test_what_is_shown() -> None:
    scenario = Scenario.parse(" noise:0.12@2-6 , swap@4-8, contrast:0.3@~10-12 ")
    shown = [scenario.active(position) for position in (0, 2, 4, 6, 8, 10, 12)]
    assert shown == ["clean", "noise:0.12", "noise:0.12 + swap", "swap", "clean", "~contrast:0.3", "clean"]
    assert scenario.boundaries() == (2, 4, 6, 8, 10, 12)
    assert Scenario.parse("swap@0-5").boundaries() == (5,)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_are_scenarios(name: str) -> None:
    scenario = Scenario.parse(name)
    assert scenario == Scenario.parse(PRESETS[name])
    assert bool(scenario.boundaries()) == (name != "clean")


def test_the_covariate_preset_is_the_documented_one() -> None:
    assert PRESETS["covariate"] == "noise:0.12@1500-3500,swap@3500-5500,invert@6500-8500"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sharpen@1-2", ["sharpen", "noise", "grayscale"]),
        ("sudenly", ["'sudenly'", "sudden", "covariate", "noise"]),
        ("swap@1-2,,invert@3-4", ["''"]),
        ("swap@1-2,", ["''"]),
        ("swap", ["'swap'", "@start-end"]),
        ("swap@5", ["'swap@5'", "@start-end"]),
        ("swap@-5-7", ["'swap@-5-7'"]),
        ("swap@1.5-7", ["'swap@1.5-7'"]),
        ("swap@5-5", ["5-5", "empty"]),
        ("swap@7-5", ["7-5", "beyond the start"]),
        ("swap@1-" + "9" * 5000, ["@start-end"]),
        ("noise@1-2", ["noise needs a strength", "0 to 1"]),
        ("noise:@1-2", ["noise needs a strength"]),
        ("noise:1.5@1-2", ["noise cannot be 1.5", "0 to 1"]),
        ("noise:-0.1@1-2", ["noise cannot be -0.1"]),
        ("noise:nan@1-2", ["noise cannot be nan"]),
        ("contrast:inf@1-2", ["contrast cannot be inf"]),
        ("blur:much@1-2", ["blur cannot be much"]),
        ("pixelate:0@1-2", ["pixelate cannot be 0", "1 to 32"]),
        ("pixelate:7.5@1-2", ["pixelate cannot be 7.5", "whole"]),
        ("rotate:361@1-2", ["rotate cannot be 361", "-360 to 360"]),
        ("swap:0.5@1-2", ["swap takes no strength"]),
        ("classes:0+1+2@1-2", ["classes", "labels", "not support"]),
        ("prior:3@1-2", ["prior", "not support"]),
        ("relabel:3+5@1-2", ["relabel", "not support"]),
        ("wrong:0.2@1-2", ["wrong", "not support"]),
        ("late:500", ["late", "not support"]),
        ("labelled:0.1@1-2", ["labelled", "not support"]),
    ],
)
def test_errors_quote_the_piece_and_say_what_is_allowed(text: str, words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        Scenario.parse(f"invert@0-1,{text}" if "@" in text else text)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40))
def test_any_other_text_is_a_settings_error(text: str) -> None:
    try:
        scenario = Scenario.parse(text)
    except SettingsError:
        return
    assert not text.strip() or text.strip() in PRESETS or scenario.ranges
