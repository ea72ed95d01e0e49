"""The commands of the README."""

from __future__ import annotations

import re

from helpers import ROOT

README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    """Every cifarctl line of the README's shell blocks, in order, without its comment."""
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("cifarctl ")]
