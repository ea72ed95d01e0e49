"""All settings of cifarctl: one frozen model with a section per component.

Sources, strongest first: command-line options and ``--set``, environment (``CIFARCTL_KAFKA__TOPIC_PREFIX``),
``.env``, ``cifarctl.toml``, default. This is the only package that reads the environment.
"""

from cifarctl.settings.data import DataSettings, TrainSettings
from cifarctl.settings.declared import Setting, declared
from cifarctl.settings.launch import Launch
from cifarctl.settings.learning import OnlineSettings, RegistrySettings
from cifarctl.settings.loading import Effective, explain, load, parse_assignment
from cifarctl.settings.model import Settings
from cifarctl.settings.secrets import MASK
from cifarctl.settings.stream import KafkaSettings, ProduceSettings, ServeSettings
from cifarctl.settings.tables import env_example, reference
from cifarctl.settings.terminal import terminal_environment
from cifarctl.settings.types import Channels, Deviation, Shares, at_home

__all__ = [
    "MASK",
    "Channels",
    "DataSettings",
    "Deviation",
    "Effective",
    "KafkaSettings",
    "Launch",
    "OnlineSettings",
    "ProduceSettings",
    "RegistrySettings",
    "ServeSettings",
    "Setting",
    "Settings",
    "Shares",
    "TrainSettings",
    "at_home",
    "declared",
    "env_example",
    "explain",
    "load",
    "parse_assignment",
    "reference",
    "terminal_environment",
]
