"""Kafka, and what is sent to it and predicted from it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, field_validator

from cifarctl.settings.types import (
    MOST_MS,
    MOST_SESSION_MS,
    Channels,
    Deviation,
    Fraction,
    Location,
    PositiveInt,
    Seconds,
    Section,
    at_home_among,
    of_text,
)


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
    options: Annotated[dict[str, str | int | float | bool], AfterValidator(at_home_among)] = Field(
        default_factory=dict,
        repr=False,  # passwords may be among them
        description="any further librdkafka option, for example kafka.options.linger.ms",
    )

    _locations = field_validator("ssl_ca_location", "ssl_certificate_location", "ssl_key_location")(of_text)


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
