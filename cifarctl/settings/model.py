"""The one model of all settings."""

from __future__ import annotations

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from cifarctl.settings.data import DataSettings, TrainSettings
from cifarctl.settings.learning import OnlineSettings, RegistrySettings
from cifarctl.settings.stream import KafkaSettings, ProduceSettings, ServeSettings

PREFIX = "CIFARCTL_"
NESTED = "__"
TOML_FILE = "cifarctl.toml"
DOTENV_FILE = ".env"


class Settings(BaseSettings):
    """The effective settings of one command; components receive only their section.

    ``Settings()`` reads the environment, ``.env`` and ``cifarctl.toml`` of the working directory. A section that is
    given as an object replaces all that these say of it. `cifarctl.settings.load` takes single settings by their dotted
    names, as ``--set`` does, and raises SettingsError, also for misspelt names in any source.

    Raises:
        pydantic.ValidationError: a value is not allowed.

    Example:
        >>> from cifarctl import Settings
        >>> from cifarctl.settings import TrainSettings, load
        >>> Settings(train=TrainSettings(epochs=3)).train.epochs
        3
        >>> load({"train.epochs": 3, "online.strategy": "replay"}).online.strategy
        'replay'
        >>> load({"train.epoch": 3})
        Traceback (most recent call last):
        cifarctl.errors.SettingsError: unknown setting train.epoch (option); did you mean train.epochs?
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",  # .env may hold variables of other programs; `names.refuse_unknown` checks ours
        env_prefix=PREFIX,
        env_nested_delimiter=NESTED,
        env_ignore_empty=True,
        env_file=DOTENV_FILE,
        nested_model_default_partial_update=True,
    )

    data: DataSettings = DataSettings()
    train: TrainSettings = TrainSettings()
    kafka: KafkaSettings = KafkaSettings()
    produce: ProduceSettings = ProduceSettings()
    serve: ServeSettings = ServeSettings()
    online: OnlineSettings = OnlineSettings()
    registry: RegistrySettings = RegistrySettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Strongest first: options, environment, .env, cifarctl.toml."""
        return init_settings, env_settings, dotenv_settings, TomlConfigSettingsSource(settings_cls, TOML_FILE)
