from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cifarctl.data import Course, Images, Scenario
from cifarctl.data.operations import OPERATIONS
from cifarctl.data.scenario import PRESETS
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
    "hue": "0.3",
    "posterize": "2",
    "solarize": "0.4",
    "jpeg": "5",
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


def test_active_drifts_are_listed() -> None:
    scenario = Scenario.parse(" noise:0.12@2-6 , swap@4-8, contrast:0.3@~10-12 ")
    shown = [scenario.active(position) for position in (0, 2, 4, 6, 8, 10, 12)]
    assert shown == ["clean", "noise:0.12", "noise:0.12 + swap", "swap", "clean", "~contrast:0.3", "clean"]
    assert scenario.boundaries() == (2, 4, 6, 8, 10, 12)
    assert Scenario.parse("swap@0-5").boundaries() == (5,)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_are_scenarios(name: str) -> None:
    scenario = Scenario.parse(name)
    spelt_out = Scenario.parse(PRESETS[name])
    assert (scenario.name, scenario.text, scenario.ranges) == (name, spelt_out.text, spelt_out.ranges)
    assert bool(scenario.boundaries()) == (name != "none")


def test_the_covariate_preset_is_the_documented_one() -> None:
    assert PRESETS["covariate"] == "noise:0.12@1500-3500,swap@3500-5500,invert@6500-8500"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sharpen@1-2", ["sharpen", "noise", "grayscale"]),
        ("covariat", ["'covariat'", "recurring", "covariate", "noise"]),
        ("swap@1-2,,invert@3-4", ["''"]),
        ("swap@1-2,", ["''"]),
        ("swap", ["'swap'", "@start-end"]),
        ("swap@5", ["'swap@5'", "@start-end"]),
        ("swap@-5-7", ["'swap@-5-7'"]),
        ("swap@1.5-7", ["'swap@1.5-7'"]),
        ("swap@5-5", ["5-5", "empty"]),
        ("swap@7-5", ["7-5", "its end must exceed"]),
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
        ("solarize:1.5@1-2", ["solarize cannot be 1.5"]),
        ("classes@1-2", ["classes needs distinct class numbers", "classes:0+1+2@start-end"]),
        ("classes:0+0@1-2", ["classes needs distinct class numbers"]),
        ("classes:a@1-2", ["classes needs distinct class numbers"]),
        ("relabel:3@1-2", ["relabel needs distinct class numbers", "relabel:3+5@start-end"]),
        ("relabel:3+5@~1-2", ["relabel cannot ramp"]),
        ("prior:0.5@1-2", ["prior cannot be 0.5", "whole"]),
        ("prior:1@~1-2", ["prior cannot ramp"]),
        ("wrong:1.2@1-2", ["wrong cannot be 1.2", "fraction, 0 to 1"]),
        ("late:0.5@1-2", ["late cannot be 0.5", "images"]),
        ("late:500", ["'late:500'", "@start-end"]),
        ("labelled@1-2", ["labelled needs a strength"]),
    ],
)
def test_errors_quote_the_piece_and_the_allowed_values(text: str, words: list[str]) -> None:
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


# --- labels, and which images come


LABEL_PIECES = ("relabel:3+5", "relabel:0+1+2", "wrong:0.3", "labelled:0.4", "late:7", "classes:1+4", "prior:2")


def numbered(count: int, classes: int = 10) -> Images:
    """Images of all classes in turn, each of which says its number."""
    pixels = torch.zeros((count, 3, 32, 32), dtype=torch.uint8)
    pixels[:, 0, 0, 0], pixels[:, 0, 0, 1] = torch.arange(count) % 256, torch.arange(count) // 256
    return Images(pixels, torch.arange(count) % classes)


def number(pixels: torch.Tensor) -> list[int]:
    return (pixels[:, 0, 0, 0].int() + 256 * pixels[:, 0, 0, 1].int()).tolist()


def course(text: str, count: int = 600, seed: int = 0) -> Course:
    return Course(numbered(count), Scenario.parse(text), seed, 10)


@st.composite
def label_scenarios(draw: st.DrawFn) -> str:
    pieces = []
    for name in draw(st.lists(st.sampled_from(LABEL_PIECES), min_size=1, max_size=4)):
        start = draw(st.integers(0, 40))
        pieces.append(f"{name}@{start}-{start + draw(st.integers(1, 40))}")
    return ",".join(pieces)


@given(label_scenarios(), st.sets(st.integers(1, 79)), st.integers(0, 3))
def test_a_course_does_not_depend_on_how_it_is_cut(text: str, cuts: set[int], seed: int) -> None:
    whole = course(text, seed=seed).take(0, 80)
    edges = [0, *sorted(cuts), 80]
    parts = course(text, seed=seed)
    pieces = [parts.take(low, high - low) for low, high in itertools.pairwise(edges)]
    for name in ("pixels", "concept", "given", "late"):
        assert torch.equal(torch.cat([getattr(piece, name) for piece in pieces]), getattr(whole, name)), name


@given(label_scenarios(), st.integers(0, 3))
def test_no_image_comes_twice_before_the_stream_starts_again(text: str, seed: int) -> None:
    stream = course(text, seed=seed)
    shown = number(stream.take(0, 900).pixels)
    first = next(position for position in range(900) if shown[position] in shown[:position])
    assert stream.repeats_from == first
    if "classes" not in text and "prior" not in text:
        assert first == 600


def test_exchanged_labels_are_right_from_then_on() -> None:
    plain = course("").take(0, 200)
    changed = course("relabel:3+5@100-1000").take(0, 200)
    assert torch.equal(changed.pixels, plain.pixels)
    assert torch.equal(changed.concept[:100], plain.concept[:100])
    exchange = {3: 5, 5: 3}
    assert changed.concept[100:].tolist() == [exchange.get(label, label) for label in plain.concept[100:].tolist()]
    assert torch.equal(changed.given, changed.concept)
    around = course("relabel:0+1+2@0-200").take(0, 200)
    assert around.concept.tolist() == [{0: 1, 1: 2, 2: 0}.get(label, label) for label in plain.concept.tolist()]


def test_wrong_labels_are_given_as_often_as_said() -> None:
    passage = course("wrong:0.2@0-500").take(0, 600)
    wrong = passage.given != passage.concept
    assert 70 <= wrong[:500].sum() <= 130  # three standard deviations either way
    assert not wrong[500:].any()
    assert set(passage.given.tolist()) == set(range(10))


def test_a_share_is_labelled_and_none_by_degrees() -> None:
    passage = course("labelled:0.1@0-300,labelled:0@~300-600").take(0, 600)
    known = passage.given >= 0
    assert torch.equal(passage.given[known], passage.concept[known])
    assert 14 <= known[:300].sum() <= 46
    assert known[300:400].sum() > 50 > 30 > known[500:].sum()


def test_labels_come_late() -> None:
    late = course("late:50@10-20,late:10@~30-41").take(0, 50).late.tolist()
    assert late == [0] * 10 + [50] * 10 + [0] * 10 + list(range(11)) + [0] * 9


def test_only_some_classes_come() -> None:
    stream = course("classes:1+4@0-100")
    assert set(stream.take(0, 100).concept.tolist()) == {1, 4}
    rest = stream.take(100, 500).concept
    assert set(rest.tolist()) == set(range(10))
    assert stream.repeats_from is None
    assert sorted(number(stream.take(0, 600).pixels)) == list(range(600))


def test_a_class_that_is_due_and_has_no_image_left_starts_again() -> None:
    stream = course("classes:1@0-100")  # 60 there are
    assert set(stream.take(0, 100).concept.tolist()) == {1}
    assert stream.repeats_from == 60
    uneven = course("prior:1@0-2000")
    frequencies = [torch.bincount(uneven.take(start, 500).concept, minlength=10) / 500 for start in (0, 1500)]
    assert torch.allclose(frequencies[0], frequencies[1], atol=0.08), "as uneven at the end as at the beginning"


def test_uneven_frequencies_are_uneven_and_seeded() -> None:
    counts = [torch.bincount(course(f"prior:{seed}@0-100").take(0, 100).concept, minlength=10) for seed in (1, 1, 2)]
    assert torch.equal(counts[0], counts[1])
    assert not torch.equal(counts[0], counts[2])
    assert counts[0].max() > 20


@pytest.mark.parametrize("text", ["classes:0@0-100,classes:1@50-100", "classes:7@10-20"])
def test_ranges_that_leave_no_class_are_refused_at_once(text: str) -> None:
    images = numbered(600)
    few = images.take(torch.nonzero(images.labels != 7).flatten())
    with pytest.raises(SettingsError, match=r"leaves no class to draw from at image (50|10)"):
        Course(few, Scenario.parse(text), 0, 10)


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("seed", range(3))
def test_no_preset_shows_an_image_twice(name: str, seed: int) -> None:
    labels = torch.arange(10_000) % 10
    pixels = torch.zeros((10_000, 3, 1, 1), dtype=torch.uint8)
    stream = Course(Images(pixels, labels), Scenario.parse(name), seed, 10)
    stream._index(0, 10_000)
    assert stream.repeats_from in (None, 10_000)


def test_a_class_that_does_not_exist() -> None:
    with pytest.raises(SettingsError, match=r"drift 'classes:3\+12': there is no class 12; use 0 to 9"):
        course("classes:3+12@0-5")


def test_the_presets_of_labels() -> None:
    late, sparse, none = (Scenario.parse(name) for name in ("late", "sparse", "unlabelled"))
    covariate = Scenario.parse("covariate")
    pixels = images(4)
    for scenario in (late, sparse, none):
        for start in (0, 2000, 4000, 7000):
            assert torch.equal(scenario.apply(pixels, start, 0)[:2], covariate.apply(pixels, start, 0)[:2])
    assert late.late(9000, 3).tolist() == [500] * 3
    labels = torch.zeros(1000, dtype=torch.int64)
    assert (sparse.given(labels, 0, 0, 10) >= 0).sum() == pytest.approx(100, abs=30)
    assert (none.given(labels, 0, 0, 10) >= 0).sum() == 0
