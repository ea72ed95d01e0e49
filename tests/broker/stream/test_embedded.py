"""The embedded broker: its life, and its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from streams import PATIENCE_S, settings_for, until

from cifarctl.errors import BrokerError
from cifarctl.stream import clients, embedded
from cifarctl.stream.embedded import EmbeddedBroker


def listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_broker_lives_within_its_context() -> None:
    with EmbeddedBroker() as running:
        assert running.alive
        clients.check(settings_for(running.bootstrap_servers))
        port = int(running.bootstrap_servers.rpartition(":")[2])
        assert listening(port)
    assert not running.alive
    assert not listening(port)
    running.stop()


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that holds an embedded broker, and the broker's port."""
    program = """
        import sys
        from cifarctl.stream.embedded import EmbeddedBroker
        with EmbeddedBroker() as running:
            sys.stdout.write(running.bootstrap_servers + "\\n")
            sys.stdout.flush()
            sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield process, int(process.stdout.readline().rpartition(":")[2])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_the_broker_dies_with_a_killed_parent(parent: tuple[subprocess.Popen[str], int]) -> None:
    process, port = parent
    assert listening(port)
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: not listening(port))


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_is_left_to_the_parent() -> None:
    program = """
        import os, signal, sys
        from cifarctl.stream import clients
        from cifarctl.settings import KafkaSettings
        from cifarctl.stream.embedded import EmbeddedBroker
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits "ignore"
        with EmbeddedBroker() as running:
            try:
                os.killpg(0, signal.SIGINT)
                signal.pause()
            except KeyboardInterrupt:
                clients.check(KafkaSettings(bootstrap_servers=running.bootstrap_servers))
                assert running.alive
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        start_new_session=True,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_broker_that_dies_is_not_alive() -> None:
    with EmbeddedBroker() as running:
        assert running._guard is not None
        running._guard.terminate()
        until(lambda: not running.alive)
        port = int(running.bootstrap_servers.rpartition(":")[2])
        until(lambda: not listening(port))


def test_a_binary_that_does_not_run_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "tansu"
    broken.write_text("not a program")
    monkeypatch.setattr(embedded, "_binary", lambda: str(broken))
    with pytest.raises(BrokerError, match=r"ended while starting on port \d+.*tansu"):
        EmbeddedBroker().start()
