"""Every error that cifarctl raises on purpose, and the exit code it becomes.

    CifarctlError                1   something unexpected
    ├── SettingsError            2   a setting or an option is wrong
    ├── DataError                3   the data set is absent, altered or unusable
    ├── RegistryError            4   the registry or a model file is unusable
    │   ├── VersionNotFound          no such version or alias
    │   ├── IntegrityError           a model file fails one of the checks of loading
    │   ├── ModelTooLarge            a model is too large to be loaded again
    │   ├── UntrustedCode            a version needs code that nobody has allowed to be run
    │   ├── AliasConflict            somebody else moved the alias first
    │   ├── AliasDamaged             the file of an alias is missing or unreadable
    │   └── RegistryBusy             another process holds a lock of the registry
    │       └── AliasClaimed         the learner of another stream moves the alias
    ├── Superseded               4   another learner has taken over from this one
    ├── BrokerError              5   Kafka cannot be reached or refuses
    │   └── BrokerAway               nobody answers, which may pass
    ├── QualityGateError         6   a required quality was not met
    ├── NotEnoughData            7   too few labelled examples to learn from
    ├── TrainingDiverged         1   the loss is no longer finite
    └── TeammateLost             1   another process that trains the same model has ended

A message is one line: the cause, then the remedy. Foreign errors are mapped to these where they enter
(the registry, the data sources, the stream package); ``cifarctl.cli`` turns them into a line and an exit code.
"""


class CifarctlError(Exception):
    """Base of all errors raised on purpose; `exit_code` is the status the command ends with."""

    exit_code = 1


class SettingsError(CifarctlError):
    """A setting, option or argument is wrong."""

    exit_code = 2


class DataError(CifarctlError):
    """The data set is absent, altered or unusable; the message names the file."""

    exit_code = 3


class RegistryError(CifarctlError):
    """The registry or a model file is unusable."""

    exit_code = 4


class VersionNotFound(RegistryError):
    """No such version or alias."""


class IntegrityError(RegistryError):
    """A model file fails one of the checks of loading."""


class ModelTooLarge(RegistryError):
    """A model is too large to be loaded again."""


class UntrustedCode(RegistryError):
    """A version needs code that nobody has allowed to be run."""


class AliasConflict(RegistryError):
    """Somebody else moved the alias since it was read."""


class AliasDamaged(RegistryError):
    """The file of an alias is missing or cannot be understood; the history can rebuild it."""


class RegistryBusy(RegistryError):
    """Another process holds a lock of the registry."""


class AliasClaimed(RegistryBusy):
    """The learner of another stream moves the alias."""


class Superseded(CifarctlError):
    """Another learner has taken over: decisions of this one no longer count."""

    exit_code = 4


class BrokerError(CifarctlError):
    """Kafka cannot be reached, refuses, or is not installed."""

    exit_code = 5


class BrokerAway(BrokerError):
    """No broker answers at the moment."""


class TeammateLost(CifarctlError):
    """One of the processes that train a model together has ended."""


class QualityGateError(CifarctlError):
    """A required quality was not met."""

    exit_code = 6


class NotEnoughData(CifarctlError):
    """Too few labelled examples to learn from."""

    exit_code = 7


class TrainingDiverged(CifarctlError):
    """The training loss is no longer finite."""
