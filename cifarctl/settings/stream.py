"""Settings of Kafka, of the producer and of the stream predictor."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, field_validator

from cifarctl.settings.types import (
    MAX_MS,
    MAX_SESSION_MS,
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
        "127.0.0.1:9092", min_length=1, description="broker addresses: host:port[,host:port]"
    )
    topic_prefix: str = Field(
        "cifar",
        pattern=r"^[A-Za-z0-9._-]{1,200}$",
        description="topics are <prefix>.images, .labels, .predictions, ...",
    )
    group_id: str = Field(
        "cifarctl", min_length=1, description="consumer group of serve; the learner's group adds .learner"
    )
    partitions: PositiveInt = Field(3, description="number of partitions of topics that cifarctl creates")
    replication: PositiveInt = Field(1, description="replication factor of topics that cifarctl creates")
    delivery: Literal["auto", "exactly-once", "at-least-once"] = Field(
        "auto", description="delivery guarantee; auto: exactly-once, but at-least-once on the embedded broker"
    )
    commit_interval_ms: Annotated[int, Field(ge=1, le=MAX_MS)] = Field(
        100, description="milliseconds between commits of serve"
    )
    commit_messages: PositiveInt = Field(10_000, description="serve commits earlier once this many inputs are answered")
    group_protocol: Literal["auto", "classic", "consumer"] = Field(
        "auto",
        description="rebalance protocol: classic (cooperative), consumer (KIP-848), or auto: consumer if the broker "
        "supports it and its session timeout is at most kafka.session_timeout_ms, otherwise classic",
    )
    group_instance_id: str | None = Field(
        None, description="static membership: a name for this replica that stays the same when it restarts"
    )
    session_timeout_ms: Annotated[int, Field(ge=1000, le=MAX_SESSION_MS)] = Field(
        6000,
        description="milliseconds without a heartbeat until a replica counts as dead and its partitions move "
        "(classic protocol; with consumer the broker decides)",
    )
    timeout_s: Annotated[float, Field(gt=0, le=60)] = Field(
        5.0, description="maximum seconds to wait for a broker's response"
    )
    create_topics: bool = Field(True, description="create missing topics; false: a missing topic is an error")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="security protocol of connections to the brokers"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = Field(
        None, description="SASL mechanism, required by the SASL protocols"
    )
    sasl_username: str | None = Field(None, description="user name for PLAIN and SCRAM")
    sasl_password: SecretStr | None = Field(None, description="password for PLAIN and SCRAM")
    sasl_oauth_token_endpoint: str | None = Field(
        None, description="OAUTHBEARER: token endpoint URL (OpenID Connect, client credentials)"
    )
    sasl_oauth_client_id: str | None = Field(None, description="OAUTHBEARER: client id")
    sasl_oauth_client_secret: SecretStr | None = Field(None, description="OAUTHBEARER: client secret")
    sasl_oauth_scope: str | None = Field(None, description="OAUTHBEARER: requested scope")
    ssl_ca_location: Location | None = Field(None, description="file with trusted CA certificates (PEM)")
    ssl_certificate_location: Location | None = Field(None, description="mTLS: file with the client certificate (PEM)")
    ssl_key_location: Location | None = Field(None, description="mTLS: file with the client's private key (PEM)")
    ssl_key_password: SecretStr | None = Field(None, description="mTLS: password of the private key")
    options: Annotated[dict[str, str | int | float | bool], AfterValidator(at_home_among)] = Field(
        default_factory=dict,
        repr=False,  # passwords may be among them
        description="additional librdkafka options, for example kafka.options.linger.ms",
    )

    _locations = field_validator("ssl_ca_location", "ssl_certificate_location", "ssl_key_location")(of_text)


class ProduceSettings(Section):
    """The producer of images and labels."""

    rate: Annotated[float, Field(ge=0)] = Field(0.2, description="messages per second; 0 = unlimited")
    format: Literal["raw", "json", "png"] = Field(
        "raw", description="wire format: raw (pixel bytes), json (the tutorial's) or png"
    )
    label_delay: Annotated[float, Field(ge=0, le=1e9)] = Field(
        0.0, description="delay of labels in seconds; they then go to the labels topic; 0 = sent with the image"
    )
    unlabelled: Fraction = Field(0.0, description="fraction of images sent without their label")
    seed: int = Field(0, ge=0, description="seed for order, drift noise and withheld labels")


class ServeSettings(Section):
    """The stream predictor."""

    batch_size: PositiveInt = Field(128, description="maximum micro-batch size")
    max_wait_ms: Annotated[int, Field(ge=0, le=MAX_MS)] = Field(
        0, description="maximum milliseconds to wait for a micro-batch to fill; 0 = do not wait"
    )
    backend: Literal["auto", "eager", "onnxruntime", "openvino"] = Field(
        "auto", description="inference backend; auto: the fastest installed one that agrees with eager in float32"
    )
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="numeric precision of inference; auto: bfloat16 if it measures faster"
    )
    device: str = Field("auto", description="device for inference: auto, cpu, cuda, ...")
    threads: Annotated[int, Field(ge=0)] = Field(
        0, description="CPU threads for inference; 0 = half of the available cores"
    )
    alias: str = Field("production", pattern=r"^[a-z][a-z0-9_-]{0,63}$", description="registry alias to serve")
    alias_interval: Seconds = Field(0.5, description="seconds between checks of the alias for a new version")
    canary: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="fraction of ids answered by the canary version (alias <alias>-canary); 0 = no canary"
    )
    json_mean: Channels = Field((0.5, 0.5, 0.5), description="per-channel mean that producers of JSON subtracted")
    json_std: Deviation = Field(
        (0.5, 0.5, 0.5), description="per-channel standard deviation that producers of JSON divided by"
    )
