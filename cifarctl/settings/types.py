"""Value types of settings, with their validators."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator

TEXT = "should be text in UTF-8"
MAX_MS = 10**9  # 11 days; librdkafka counts milliseconds in 32 bits
MAX_SESSION_MS = 3_600_000  # librdkafka's maximum of session.timeout.ms
Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]
PositiveInt: TypeAlias = Annotated[int, Field(ge=1)]
PositiveFloat: TypeAlias = Annotated[float, Field(gt=0)]
Seconds: TypeAlias = Annotated[float, Field(gt=0, le=1e9)]
"""A duration. 10**9 seconds (30 years) stay in the range of all clocks, locks and the Kafka client."""
Channels: TypeAlias = tuple[float, float, float]


def _positive(deviation: Channels) -> Channels:
    if min(deviation) <= 0:
        raise ValueError("every channel's standard deviation must be greater than 0")
    return deviation


def _add_up(shares: Channels) -> Channels:
    if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError("the three shares must be greater than 0 and add up to 1")
    return shares


def at_home(path: Path) -> Path:
    """`path` with a leading ``~`` or ``~user`` expanded to the home folder.

    Raises:
        ValueError: the user is unknown.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"there is no home folder for {path.parts[0]}; write the full path") from None


def at_home_among(options: dict[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
    """librdkafka options with ``~`` expanded in those that are paths."""
    for name, value in options.items():
        if isinstance(value, str) and not encodable(value):
            raise ValueError(f"{name} {TEXT}")
    at = {name for name, value in options.items() if str(value).startswith("~") and _names_path(name)}
    return {name: str(at_home(Path(str(value)))) if name in at else value for name, value in options.items()}


def _names_path(option: str) -> bool:
    """Whether the librdkafka option with this name is a path."""
    return option.endswith((".location", ".path", ".paths", ".keytab"))


def encodable(text: str) -> bool:
    """Whether `text` is free of the surrogates by which Python represents argument bytes that are not UTF-8."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def of_text(path: Path | None) -> Path | None:
    """`path`, if it is UTF-8 text.

    Raises:
        ValueError: it is not; the Kafka client accepts no other path.
    """
    if path is not None and not encodable(str(path)):
        raise ValueError(f"{TEXT}: the Kafka client accepts no other paths")
    return path


Location: TypeAlias = Annotated[Path, AfterValidator(at_home)]
"""The type of every setting that is a path."""
Shares: TypeAlias = Annotated[Channels, AfterValidator(_add_up)]
Deviation: TypeAlias = Annotated[Channels, AfterValidator(_positive)]


class Section(BaseModel):
    """A group of settings: frozen; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _text(cls, value: Any) -> Any:
        plain = value.get_secret_value() if isinstance(value, SecretStr) else value
        if isinstance(plain, str) and not encodable(plain):
            raise ValueError(TEXT)
        return value
