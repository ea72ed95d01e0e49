"""All settings of cifarctl: one frozen model, a section for each component.

Sources, strongest first: command-line options and ``--set``, environment (``CIFARCTL_KAFKA__TOPIC_PREFIX``),
``.env``, ``cifarctl.toml``, default. This is the only module that reads the environment.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import SettingsError as SourceError

from cifarctl.errors import SettingsError

PREFIX = "CIFARCTL_"
NESTED = "__"
TOML_FILE = "cifarctl.toml"
DOTENV_FILE = ".env"
MASK = "********"
SECRET_WORDS = ("password", "passphrase", "secret", "token", "ssl.key", "private.key", "jaas", "oauthbearer.config")
PLACES = ("location", "file", "url", "endpoint")  # names of where a secret is, or is had, end so
TEXT = "should be text in UTF-8"
MOST_MS = 10**9  # 11 days; librdkafka counts milliseconds in 32 bits
MOST_SESSION_MS = 3_600_000  # librdkafka takes no longer session.timeout.ms

Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]
PositiveInt: TypeAlias = Annotated[int, Field(ge=1)]
PositiveFloat: TypeAlias = Annotated[float, Field(gt=0)]
Seconds: TypeAlias = Annotated[float, Field(gt=0, le=1e9)]
"""A time to wait. Clocks, locks and the Kafka client reckon with what a number of theirs holds; 30 years fit."""
Channels: TypeAlias = tuple[float, float, float]


def _spread(deviation: Channels) -> Channels:
    if min(deviation) <= 0:
        raise ValueError("every channel's standard deviation must be greater than 0")
    return deviation


def _whole(shares: Channels) -> Channels:
    if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError("the three shares must be greater than 0 and add up to 1")
    return shares


def at_home(path: Path) -> Path:
    """`path` with a leading ``~`` or ``~user`` replaced by the home folder, as a shell does where it sees one.

    Raises:
        ValueError: there is no such user.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"there is no home folder of {path.parts[0]}; write the path out") from None


def _at_home_among(options: dict[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
    for name, value in options.items():
        if isinstance(value, str) and not _encodable(value):
            raise ValueError(f"{name} {TEXT}")
    return {
        name: str(at_home(Path(value))) if isinstance(value, str) and value.startswith("~") and _path(name) else value
        for name, value in options.items()
    }


def _path(option: str) -> bool:
    """Whether the librdkafka option of this name is a path."""
    return option.endswith((".location", ".path", ".paths", ".keytab"))


def _encodable(text: str) -> bool:
    """Whether it is text: Python keeps bytes of arguments and of the environment that are no UTF-8 as surrogates."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _of_text(path: Path | None) -> Path | None:
    if path is not None and not _encodable(str(path)):
        raise ValueError(f"{TEXT}, as the Kafka client takes no other")
    return path


Location: TypeAlias = Annotated[Path, AfterValidator(at_home)]
"""Every setting that is a path."""
Shares: TypeAlias = Annotated[Channels, AfterValidator(_whole)]
Deviation: TypeAlias = Annotated[Channels, AfterValidator(_spread)]


class Section(BaseModel):
    """A group of settings; frozen, and closed so that a misspelt name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _text(cls, value: Any) -> Any:
        plain = value.get_secret_value() if isinstance(value, SecretStr) else value
        if isinstance(plain, str) and not _encodable(plain):
            raise ValueError(TEXT)
        return value


class DataSettings(Section):
    """Where images come from and how the training images are split."""

    source: Literal["auto", "cifar10", "folder", "synthetic"] = Field(
        "auto", description="cifar10, folder, synthetic, or auto: cifar10 where it can be had, else synthetic"
    )
    dir: Location = Field(
        Path("data"), description="folder that holds cifar-10-batches-py, or train/ and test/ of pictures"
    )
    download: bool = Field(True, description="download CIFAR-10 when it is absent")
    split: Shares = Field((0.7, 0.1, 0.2), description="shares of the training images for train, validation and stream")
    split_seed: int = Field(0, ge=0, description="seed of the stratified split")
    synthetic_images: Annotated[int, Field(ge=500)] = Field(
        20_000, description="training images that the synthetic source draws (a fifth as many for test)"
    )


class TrainSettings(Section):
    """Offline training."""

    model: str = Field(
        "net",
        description="architecture: net, net-bn, airbench, torchvision:NAME, or one of your own as package.module:NAME",
    )
    epochs: PositiveInt = Field(10, description="passes over the training images")
    target_accuracy: Fraction | None = Field(
        None,
        description="stop once validation accuracy reaches this (with test-time augmentation if the model uses it, "
        "measured at the end of each learning-rate cycle), after train.epochs at the latest",
    )
    batch_size: PositiveInt | None = Field(
        None, description="images a step; default: the model's (net 128, airbench 1000)"
    )
    learning_rate: PositiveFloat | None = Field(
        None, description="highest learning rate; default: the model's (net 0.008, airbench 0.24)"
    )
    weight_decay: Annotated[float, Field(ge=0)] | None = Field(
        None, description="decoupled weight decay; default: the model's (net 0.05, airbench 0.002)"
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="share of each label spread evenly; default: the model's (net 0.05, airbench 0.2)"
    )
    tta: Literal["none", "flip", "flip-shift"] | None = Field(
        None,
        description="what the version's answers are averaged over: the image and its mirror image (twice the work), "
        "also moved by a pixel (six times); default: the model's (net none, airbench flip-shift)",
    )
    crop_padding: Annotated[int, Field(ge=0, le=16)] = Field(
        2, description="pixels of reflected border for random crops"
    )
    flip: bool = Field(True, description="mirror each image in every other epoch")
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="arithmetic of training; auto takes bfloat16 where it measures faster"
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="torch.compile: on, off, or auto: in runs of five minutes or more, where it measures faster"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps, ...")
    threads: Annotated[int, Field(ge=0)] = Field(0, description="CPU threads; 0 = every core that the process may use")
    seed: int = Field(0, ge=0, description="seed of initial weights, order and augmentation")


class KafkaSettings(Section):
    """Connection, topics and delivery."""

    bootstrap_servers: str = Field(
        "127.0.0.1:9092", min_length=1, description="broker addresses, host:port[,host:port]"
    )
    topic_prefix: str = Field(
        "cifar",
        pattern=r"^[A-Za-z0-9._-]{1,200}$",
        description="topics are <prefix>.images, .labels, .predictions, ...",
    )
    group_id: str = Field("cifarctl", min_length=1, description="consumer group of serve; the learner adds .learner")
    partitions: PositiveInt = Field(3, description="partitions of topics that cifarctl creates")
    replication: PositiveInt = Field(1, description="replicas of topics that cifarctl creates")
    delivery: Literal["auto", "exactly-once", "at-least-once"] = Field(
        "auto", description="auto is exactly-once, and at-least-once on the embedded broker only, which cannot do it"
    )
    commit_interval_ms: Annotated[int, Field(ge=1, le=MOST_MS)] = Field(
        100, description="milliseconds between commits of serve"
    )
    commit_messages: PositiveInt = Field(10_000, description="inputs after which serve commits before that")
    group_protocol: Literal["auto", "classic", "consumer"] = Field(
        "auto",
        description="rebalancing: consumer (KIP-848) where the broker has it and notices a dead member within "
        "kafka.session_timeout_ms, else classic (cooperative)",
    )
    group_instance_id: str | None = Field(
        None, description="static membership: a name of this replica that outlives its process"
    )
    session_timeout_ms: Annotated[int, Field(ge=1000, le=MOST_SESSION_MS)] = Field(
        6000, description="after this silence a dead replica's partitions move on (classic; else the broker decides)"
    )
    timeout_s: Annotated[float, Field(gt=0, le=60)] = Field(
        5.0, description="seconds to wait for a broker that does not answer"
    )
    create_topics: bool = Field(True, description="create topics that are absent; false: their absence is an error")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how clients connect"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = Field(
        None, description="SASL mechanism, with a SASL protocol"
    )
    sasl_username: str | None = Field(None, description="SASL user of PLAIN and SCRAM")
    sasl_password: SecretStr | None = Field(None, description="SASL password of PLAIN and SCRAM")
    sasl_oauth_token_endpoint: str | None = Field(
        None, description="OAUTHBEARER: where tokens are had by client credentials (OpenID Connect)"
    )
    sasl_oauth_client_id: str | None = Field(None, description="OAUTHBEARER: client id")
    sasl_oauth_client_secret: SecretStr | None = Field(None, description="OAUTHBEARER: client secret")
    sasl_oauth_scope: str | None = Field(None, description="OAUTHBEARER: scope to ask for")
    ssl_ca_location: Location | None = Field(None, description="file of trusted certificates")
    ssl_certificate_location: Location | None = Field(None, description="mTLS: file of the client's certificate (PEM)")
    ssl_key_location: Location | None = Field(None, description="mTLS: file of the client's private key (PEM)")
    ssl_key_password: SecretStr | None = Field(None, description="mTLS: password of that key")
    options: Annotated[dict[str, str | int | float | bool], AfterValidator(_at_home_among)] = Field(
        default_factory=dict,
        repr=False,  # passwords may be among them
        description="any further librdkafka option, for example kafka.options.linger.ms",
    )

    _locations = field_validator("ssl_ca_location", "ssl_certificate_location", "ssl_key_location")(_of_text)


class ProduceSettings(Section):
    """What `produce` sends and how fast."""

    rate: Annotated[float, Field(ge=0)] = Field(0.2, description="messages a second; 0 = as fast as it goes")
    format: Literal["raw", "json", "png"] = Field(
        "raw", description="wire format: raw bytes, the tutorial's JSON, or PNG"
    )
    label_delay: Annotated[float, Field(ge=0, le=1e9)] = Field(
        0.0, description="seconds after its image that a label follows on the labels topic; 0 = with the image"
    )
    unlabelled: Fraction = Field(0.0, description="share of images sent without their label")
    seed: int = Field(0, ge=0, description="seed of order, drift noise and which labels are left out")


class ServeSettings(Section):
    """The stream predictor."""

    batch_size: PositiveInt = Field(128, description="maximum micro-batch size")
    max_wait_ms: Annotated[int, Field(ge=0, le=MOST_MS)] = Field(
        0, description="milliseconds to wait for a micro-batch to fill; 0 = take what is there"
    )
    backend: Literal["auto", "eager", "onnxruntime", "openvino"] = Field(
        "auto", description="what runs the network; auto takes the fastest installed one that agrees with float32 eager"
    )
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="arithmetic of prediction; auto takes bfloat16 where it measures faster"
    )
    device: str = Field("auto", description="auto, cpu, cuda, ...")
    threads: Annotated[int, Field(ge=0)] = Field(
        0, description="CPU threads of the predictor; 0 = half of the cores that the process may use"
    )
    alias: str = Field("production", pattern=r"^[a-z][a-z0-9_-]{0,63}$", description="registry alias that is served")
    alias_interval: Seconds = Field(0.5, description="seconds between looks at the alias")
    canary: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of ids that the version on trial answers, named by <alias>-canary; 0 = none"
    )
    json_mean: Channels = Field((0.5, 0.5, 0.5), description="mean that producers of JSON subtracted, per channel")
    json_std: Deviation = Field((0.5, 0.5, 0.5), description="deviation that producers of JSON divided by, per channel")


class OnlineSettings(Section):
    """The learner."""

    strategy: str = Field(
        "mixture",
        description="how the learner learns: mixture, replay, er-ace, der++, finetune, or that of another package",
    )
    update_every: PositiveInt = Field(125, description="labelled images between two updates")
    update_interval: Seconds = Field(300.0, description="seconds between two updates; whichever comes first")
    min_examples: PositiveInt = Field(200, description="fewest labelled images to learn from")
    buffer_size: Annotated[int, Field(ge=10)] = Field(4000, description="labelled images kept to learn from")
    holdout_every: Annotated[int, Field(ge=2)] = Field(
        10, description="every k-th labelled image is never trained on, only judged by"
    )
    holdout_size: PositiveInt = Field(400, description="most recent held-out images that are kept")
    reference_size: PositiveInt = Field(20_000, description="training images kept beside the stream's, for replay")
    steps: PositiveInt = Field(20, description="optimiser steps of one update")
    batch_size: PositiveInt = Field(128, description="images a step of an update")
    learning_rate: PositiveFloat = Field(2e-3, description="base learning rate of updates (AdamW)")
    learning_rate_max: PositiveFloat = Field(4e-3, description="highest learning rate, after a drift")
    learning_rate_min: PositiveFloat = Field(5e-4, description="lowest learning rate, in long calm")
    detector: Literal["adwin", "hddm-w", "page-hinkley", "kswin"] = Field(
        "adwin", description="river drift detector on the prequential error"
    )
    gate_alpha: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.1, description="chance that challengers which are no better are ever promoted, all of them together"
    )
    validation_tolerance: Fraction = Field(
        0.03,
        description="fall of validation accuracy below the first version's that the gate lets pass; any, while the "
        "inputs have moved away from the validation images",
    )
    validation_size: PositiveInt = Field(1500, description="validation images that the gate looks at")
    follow_relabelling: bool = Field(
        False, description="follow labels that change over unmoved images, which look the same as poisoned ones"
    )
    allow_full: bool = Field(
        False, description="learn from a version of train --full, which knows the images that it is judged by"
    )
    label_wait: Seconds = Field(
        600.0, description="seconds that an image waits for its label on the labels topic, or a label for its image"
    )
    label_wait_mb: PositiveInt = Field(
        64, description="MiB of memory for images that wait for their labels; beyond that the oldest go to the disk"
    )
    label_wait_disk_mb: Annotated[int, Field(ge=0)] = Field(
        1024,
        description="MiB of disk for those that do not fit into memory; beyond that the oldest are given up; 0 = none",
    )
    watch: Annotated[int, Field(ge=0)] = Field(
        500,
        description="labelled images after a promotion during which the version before may take over again",
    )
    threads: PositiveInt = Field(1, description="CPU threads of the learner")
    cpu_budget: PositiveFloat | None = Field(
        None, description="most of a core that the learner may use, 0.5 = half of one; default: its threads'"
    )
    niceness: Annotated[int, Field(ge=0, le=19)] = Field(10, description="lower priority of the learner process")
    heartbeat_timeout: Seconds = Field(60.0, description="seconds of silence after which a learner is restarted")
    seed: int = Field(0, ge=0, description="seed of the learner")


class RegistrySettings(Section):
    """The model registry that every command shares."""

    dir: Location = Field(Path("registry"), description="folder of versions, aliases and history")
    keep: PositiveInt = Field(20, description="newest versions that gc keeps")
    keep_hours: Annotated[float, Field(ge=0)] = Field(
        24.0, description="gc keeps what an alias named, or a learner wrote, within so many hours"
    )
    trusted_models: str = Field(
        "",
        description="architectures of your own whose code may be run to load a version: package.module:NAME, "
        "comma-separated",
    )
    max_model_mb: PositiveInt = Field(512, description="largest model file that is loaded, in MiB")
    lock_timeout: Seconds = Field(30.0, description="seconds to wait for another writer of the registry")

    @property
    def trusted(self) -> list[str]:
        """`trusted_models`, one by one."""
        return [path.strip() for path in self.trusted_models.split(",") if path.strip()]

    def trusting(self, *models: str) -> RegistrySettings:
        """The same for somebody who has named these architectures himself."""
        return self.model_copy(update={"trusted_models": ",".join([*self.trusted, *models])})


@dataclass(frozen=True)
class Launch:
    """What torchrun says to a process that it starts: its place among `size` of them, of which run, started how often.

    Each node counts its `restarts` for itself, and those for other reasons than a failure not at all; `run` is the same
    for all, but ``none`` where nobody has chosen it.
    """

    rank: int
    local_rank: int
    size: int
    restarts: int
    run: str

    @classmethod
    def present(cls) -> Launch | None:
        """That of this process; None where torchrun has not started it."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return None
        return cls(
            rank=int(os.environ["RANK"]),
            local_rank=int(os.environ["LOCAL_RANK"]),
            size=int(os.environ["WORLD_SIZE"]),
            restarts=int(os.environ["TORCHELASTIC_RESTART_COUNT"]),
            run=os.environ["TORCHELASTIC_RUN_ID"],
        )


class Settings(BaseSettings):
    """The effective settings of one command; components receive only their section."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",  # another program's names in .env are none of our business; ours are checked below
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


@dataclass(frozen=True)
class Setting:
    """One setting as the model declares it."""

    name: str
    default: Any
    description: str
    secret: bool

    @property
    def environment(self) -> str:
        """Name of its environment variable."""
        return PREFIX + self.name.replace(".", NESTED).upper()


@dataclass(frozen=True)
class Effective:
    """One setting as it stands: its value (masked where secret) and where that came from."""

    setting: Setting
    value: str
    source: str


def declared() -> Iterator[Setting]:
    """Every setting, in the order of the model."""
    for section, field in Settings.model_fields.items():
        for name, leaf in _section(section).model_fields.items():
            yield Setting(
                name=f"{section}.{name}",
                default=getattr(field.default, name),
                description=leaf.description or "",
                secret="SecretStr" in str(leaf.annotation),
            )


def load(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read every source; `overrides` are dotted names from the command line.

    Raises:
        SettingsError: a name is unknown or a value is not allowed; the message names setting, value, source.
    """
    given = {name: _decoded(name, value, "option") for name, value in (overrides or {}).items()}
    found = _read_sources(given)
    for source, values in found.items():
        _refuse_unknown(source, values)
    try:
        return Settings(**_nested(given))
    except ValidationError as error:
        # A union reports each of its members: those that differ in the type alone are told once.
        wrong = {_place(item["loc"]): _describe(dict(item), found) for item in reversed(error.errors())}
        raise SettingsError("; ".join(reversed(wrong.values()))) from None


def explain(overrides: Mapping[str, Any] | None = None) -> list[Effective]:
    """The effective value and the source of every setting, secrets masked."""
    settings = load(overrides)
    found = _read_sources(dict(overrides or {}))
    return [
        Effective(setting, _shown(setting.name, _get(settings, setting.name)), _source(setting.name, found))
        for setting in declared()
    ]


def parse_assignment(text: str) -> tuple[str, str]:
    """Split the ``section.key=value`` of ``--set``.

    Raises:
        SettingsError: the text has another form, or tells a secret.
    """
    name, equals, value = text.partition("=")
    if not equals or name.count(".") < 1:
        # Not the value: it may be a password.
        meant = _meant(name.strip()) if equals else None
        hint = f"did you mean {meant}?" if meant else "for example train.epochs=5"
        raise SettingsError(f"--set {name.strip()!r}: expected section.key=value, {hint}")
    if _secret(name.strip()):
        section, _, key = name.strip().partition(".")
        variable = Setting(f"{section}.{key.partition('.')[0]}", None, "", secret=True).environment
        raise SettingsError(
            f"--set {name.strip()}: secrets do not belong in process arguments, which everybody on the machine can "
            f"read: use the environment ({variable}) or .env"
        )
    return name.strip(), value.strip()


def env_example() -> str:
    """The text of .env.example: every setting, commented out, at its default."""
    lines = ["# Every setting of cifarctl at its default. Copy to .env and uncomment what you change.", ""]
    section = ""
    for setting in declared():
        head = setting.name.partition(".")[0]
        if head != section:
            section = head
            lines += [f"# --- {section}: {_summary(section)}", ""]
        lines += [f"# {setting.description}", f"# {setting.environment}={_text(setting.default)}", ""]
    return "\n".join(lines)


def reference() -> str:
    """The settings table of the README, in Markdown."""
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for setting in declared():
        default = _text(setting.default)
        meaning = setting.description.replace("|", "\\|")
        lines.append(f"| `{setting.name}` | {f'`{default}`' if default else ''} | {meaning} |")
    return "\n".join(lines) + "\n"


def _section(name: str) -> type[Section]:
    annotation = Settings.model_fields[name].annotation
    assert isinstance(annotation, type)
    assert issubclass(annotation, Section)
    return annotation


def _summary(section: str) -> str:
    return (_section(section).__doc__ or "").splitlines()[0]


def _get(settings: Settings, name: str) -> Any:
    section, _, key = name.partition(".")
    return getattr(getattr(settings, section), key)


def _text(value: Any) -> str:
    """A value as one would write it into the environment."""
    if value is None:
        return ""
    if isinstance(value, tuple | dict | bool):
        return json.dumps(value)
    return str(value)


def _shown(name: str, value: Any) -> str:
    """`value` for people: secrets masked, also those that travel among kafka.options."""
    if isinstance(value, dict):
        return json.dumps({key: _shown(key, item) for key, item in value.items()})
    secret = isinstance(value, SecretStr) or _secret(name)
    return MASK if secret and value not in (None, "") else _text(value)


def _secret(name: str) -> bool:
    """Whether a setting or an option of this name holds a secret."""
    return _speaks_of_secrets(name) and not name.endswith(PLACES)


def _speaks_of_secrets(text: str) -> bool:
    return any(word in text.lower() for word in SECRET_WORDS)


def _nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` to ``{"a": {"b": 1}}``; what follows a dictionary's name is one key of it."""
    nested: dict[str, Any] = {}
    for name, value in overrides.items():
        section, _, key = name.partition(".")
        target = nested.setdefault(section, {})
        if section == "kafka" and key.startswith("options."):
            target.setdefault("options", {})[key.removeprefix("options.")] = value
        else:
            target[key] = value
    return nested


def _read_sources(overrides: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What each source says, strongest first."""
    readers: dict[str, Callable[[], dict[str, Any]]] = {
        "option": lambda: _nested(overrides),
        "environment": lambda: _variables("environment", os.environ, EnvSettingsSource),
        DOTENV_FILE: lambda: _variables(DOTENV_FILE, _dotenv(), DotEnvSettingsSource),
        TOML_FILE: lambda: TomlConfigSettingsSource(Settings, TOML_FILE)(),
    }
    found = {}
    for source, read in readers.items():
        try:
            found[source] = read()
        except (SourceError, ValueError, OSError) as error:  # a section that is no JSON, a file that is no TOML
            raise SettingsError(f"{source} cannot be read: {error}") from None
    return found


def _dotenv() -> dict[str, str | None]:
    """The variables of .env; a line that is none is an error, not a warning in passing."""
    if not Path(DOTENV_FILE).is_file():
        return {}
    with Path(DOTENV_FILE).open() as file:
        for binding in parse_stream(file):
            if binding.error:  # without the text: it may be a secret
                raise ValueError(f"line {binding.original.line} is not of the form NAME=value")
    return dotenv_values(DOTENV_FILE)


def _variables(source: str, variables: Mapping[str, str | None], reader: type[EnvSettingsSource]) -> dict[str, Any]:
    """What environment variables of ours say, misspelt ones included."""
    values = {name.upper(): value for name, value in variables.items()}
    for setting in declared():
        if value := values.get(setting.environment):
            _decoded(setting.name, value, source)
    return _ours(reader(Settings)()) | _strays(variables)


def _decoded(name: str, value: Any, source: str) -> Any:
    """`value`, read as JSON where it is the text of a list or a dictionary.

    Raises:
        SettingsError: it is no JSON.
    """
    example = next((s.default for s in declared() if s.name == name and isinstance(s.default, tuple | dict)), None)
    if example is None or not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        shown = MASK if _speaks_of_secrets(value) else value
        like = _text(example or {"linger.ms": 20})
        raise SettingsError(f"{name} = {shown} ({source}): should be JSON, for example {like}") from None


def _ours(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in Settings.model_fields}


def _strays(variables: Mapping[str, str | None]) -> dict[str, Any]:
    """Variables with our prefix that belong to no section, by their names without it: misspelt, most likely."""
    found: dict[str, Any] = {}
    for name, value in variables.items():
        section, _, key = name[len(PREFIX) :].lower().partition(NESTED)
        if name.upper().startswith(PREFIX) and section not in Settings.model_fields:
            found[section] = {key: value} if key else value
    return found


def _refuse_unknown(source: str, values: Mapping[str, Any]) -> None:
    for section, inside in values.items():
        keys = list(inside) if isinstance(inside, Mapping) else []
        if section in Settings.model_fields:
            options = inside.get("options") if isinstance(inside, Mapping) else None
            if isinstance(options, Mapping):
                keys += [f"options.{key}" for key in options]
            for key in keys:
                if not _encodable(key):  # pydantic cannot say so
                    raise _unknown(f"{section}.{key}", source)
            continue
        name = f"{section}.{keys[0]}" if keys else section
        raise _unknown(name, source, f"the sections are {', '.join(Settings.model_fields)}")


def _unknown(name: str, source: str, otherwise: str = "`cifarctl config` lists all") -> SettingsError:
    """That there is no such setting, and which one was meant, as one writes it in that source."""
    meant = _meant(name)
    if meant is None:
        hint = otherwise
    elif source in ("environment", DOTENV_FILE):
        variable = Setting(".".join(meant.split(".")[:2]), None, "", secret=False).environment
        hint = f"did you mean {variable}{'' if '.' in name else ', with two underscores'}?"
    else:
        hint = f"did you mean {meant}?"
    return SettingsError(f"unknown setting {name} ({source}); {hint}")


def _meant(name: str) -> str | None:
    """The setting that somebody who wrote `name` most likely meant; its section may be misspelt or missing."""
    known = [setting.name for setting in declared()]
    section, dot, key = name.partition(".")
    if not dot:  # one underscore in the place of two, or the key alone
        divided = [one for one in known if one.replace(".", "_") == name or one.partition(".")[2] == name]
        if divided:
            return divided[0]
        for head in Settings.model_fields:
            if section.startswith(f"{head}_"):
                return f"{head}.{section.removeprefix(f'{head}_')}"
        return None
    head, dot, option = key.partition(".")
    if dot and _like(section, "kafka") and _like(head, "options"):
        return f"kafka.options.{option}"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    if close:
        return close[0]
    same = [one for one in known if one.partition(".")[2] == key]
    return same[0] if len(same) == 1 else None


def _like(text: str, word: str) -> bool:
    return bool(difflib.get_close_matches(text, [word]))


def _source(name: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    section, _, key = name.partition(".")
    for source, values in found.items():
        inside = values.get(section)
        if not isinstance(inside, Mapping):
            there = inside is not None
        elif key.startswith("options."):
            there = key.removeprefix("options.") in inside.get("options", {})
        else:
            there = key in inside
        if there:
            return source
    return "default"


def _place(path: Sequence[int | str]) -> str:
    """The dotted name of a setting, or of one of kafka.options."""
    depth = 3 if path[:2] == ("kafka", "options") else 2
    return ".".join(str(part) for part in path[:depth])


def _describe(error: dict[str, Any], found: Mapping[str, Mapping[str, Any]]) -> str:
    name = _place(error["loc"])
    if error["type"] == "extra_forbidden":
        return str(_unknown(name, _source(name, found)))
    secret = any(setting.secret for setting in declared() if setting.name == name)
    value = MASK if secret else _shown(name, error["input"])
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if error["type"] == "string_unicode":
        message = TEXT
    return f"{name} = {value} ({_source(name, found)}): {message}"
