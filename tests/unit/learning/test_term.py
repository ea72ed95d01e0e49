"""What a learner is given of the data set."""

from __future__ import annotations

import torch
from helpers import DATA, load_data

from cifarctl.data import Images
from cifarctl.learning.term import Material
from cifarctl.settings import OnlineSettings, Settings

SETTINGS = Settings(data=DATA, online=OnlineSettings(reference_size=400))


def contents(images: Images) -> list[bytes]:
    """Each image with its label, as bytes that can be compared."""
    return [
        pixels.numpy().tobytes() + bytes([label])
        for pixels, label in zip(images.pixels, images.labels.tolist(), strict=True)
    ]


def test_the_material_shows_training_images_and_keeps_the_validation_images_apart() -> None:
    dataset, split = load_data()
    material = Material.of(SETTINGS)
    reference, validation = contents(material.reference), contents(material.validation)
    everything = contents(dataset.train)
    assert len(set(everything)) == len(everything), "images that cannot be told apart prove nothing"

    assert validation == contents(dataset.train.take(split.validation))
    assert len(reference) == len(set(reference)) == 400
    assert set(reference) <= set(contents(dataset.train.take(split.train)))
    assert not set(reference) & set(validation)
    assert (material.dataset, material.classes, material.split) == (dataset.name, dataset.classes, split.sha256)


def test_the_reference_images_are_a_sample_that_the_seed_decides() -> None:
    first, again = Material.of(SETTINGS), Material.of(SETTINGS)
    other = Material.of(SETTINGS.model_copy(update={"online": OnlineSettings(reference_size=400, seed=1)}))
    assert torch.equal(first.reference.pixels, again.reference.pixels)
    assert not torch.equal(first.reference.pixels, other.reference.pixels)
    assert torch.equal(first.validation.pixels, other.validation.pixels)
    assert set(first.reference.labels.tolist()) == set(range(10)), "not the first images of an ordered split"
