"""``cifarctl registry compare``: two versions on the same validation images, with a test for chance."""

from __future__ import annotations

from scipy import stats

from cifarctl.data import Images
from cifarctl.errors import RegistryError
from cifarctl.events import Compared, Comparison
from cifarctl.flows.predict import predict
from cifarctl.registry import Registry, validation
from cifarctl.registry.loading import LoadedModel, load
from cifarctl.training.metrics import measure


def compare_versions(registry: Registry, first: str, second: str) -> Comparison:
    """The figures of both versions on the validation images in the registry, in float32.

    `p_value` is that of McNemar's exact test (McNemar 1947, Note on the Sampling Error of the Difference Between
    Correlated Proportions or Percentages): the probability that two equally good versions divide the images which only
    one of them gets right at least as unevenly.

    Raises:
        VersionNotFound: one of them does not exist.
        RegistryError: they cannot be loaded, or the registry has no images to compare them on.
    """
    pair = load(registry, first), load(registry, second)
    images = _common(registry, *pair)
    answers = [predict(version, images.pixels) for version in pair]
    right = [answer.argmax(dim=1) == images.labels for answer in answers]
    only_first, only_second = (int((one & ~other).sum()) for one, other in (right, right[::-1]))
    apart = only_first + only_second
    compared = []
    for version, answer in zip(pair, answers, strict=True):
        manifest, metrics = version.manifest, measure(answer, images.labels)
        compared.append(
            Compared(
                version=manifest.version,
                model=manifest.model,
                parameters=sum(parameter.numel() for parameter in version.model.parameters()),
                accuracy=metrics.accuracy,
                loss=metrics.loss,
                ece=metrics.ece,
                per_class=dict(zip(manifest.classes, metrics.per_class, strict=True)),
                metrics=manifest.metrics,
            )
        )
    return Comparison(
        images=len(images),
        versions=compared,
        only_first_right=only_first,
        only_second_right=only_second,
        p_value=float(stats.binomtest(only_first, apart).pvalue) if apart else 1.0,
    )


def _common(registry: Registry, first: LoadedModel, second: LoadedModel) -> Images:
    """The validation images of both versions, which neither was trained on."""
    one, other = first.manifest, second.manifest
    if one.classes != other.classes:
        raise RegistryError(f"versions {one.version} and {other.version} know different classes")
    if one.split.sha256 != other.split.sha256:
        raise RegistryError(
            f"versions {one.version} and {other.version} were trained on different splits of the images (data.split, "
            "data.split_seed, data.dir): no validation images are new to both"
        )
    for manifest in (one, other):
        if "validation" in manifest.split.seen:
            how = "may have been" if manifest.origin == "import" else "was"
            raise RegistryError(
                f"version {manifest.version} {how} trained on the validation images, so they cannot compare it; "
                f"its test accuracy is in `cifarctl registry show {manifest.version}`"
            )
    found = validation.load(registry, one.split.sha256)
    if found is None:
        raise RegistryError(
            "the registry has no validation images of these versions; `cifarctl eval` with the data set puts them there"
        )
    return Images(*found)
