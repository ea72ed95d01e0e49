"""What goes on while the registry is broken: serving, and producing, which needs no model."""

from __future__ import annotations

import pytest
from processes import Site, until

from cifarctl import events


def test_serve_says_once_that_its_alias_cannot_be_read(site: Site) -> None:
    serving = site.serve(serve__alias_interval=0.02)
    until(lambda: serving.of(events.ServeStarted))
    file = site.registry.dir / "aliases" / "production"
    content = file.read_bytes()

    def said() -> list[str]:
        return [notice.message for notice in serving.of(events.Notice) if "cannot be read" in notice.message]

    file.write_bytes(b"")
    serving.until(said)
    site.send(10)
    serving.until(lambda: sum(len(batch.ids) for batch in serving.of(events.BatchServed)) == 10)
    assert len(said()) == 1
    assert "the alias production cannot be read" in said()[0]
    assert "version 1 goes on serving" in said()[0]
    assert "cifarctl registry verify --repair" in said()[0]
    site.registry.repair()
    assert file.read_bytes() == content
    serving.finish()
    assert not serving.of(events.Swapped)


@pytest.mark.parametrize("damage", ["alias", "dangling", "manifest"])
def test_producing_needs_no_model(damage: str, site: Site) -> None:
    registry = site.registry.dir
    if damage == "alias":
        (registry / "aliases" / "production").write_bytes(b"")
    elif damage == "dangling":
        (registry / "versions" / "000001").rename(registry / "versions" / "000001.gone")
    else:
        (registry / "versions" / "000001" / "manifest.json").write_bytes(b"")
    result = site.call("produce", "--count=3", "--rate=0", "--json")
    assert result.exit_code == 0, result.stderr
    assert '"sent": 3' in result.stdout
