"""The claim of a learner that was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cifarctl.errors import AliasClaimed
from cifarctl.registry.claims import Claim, Stream

MINE = Stream(None, "cifar", "cifarctl", "production")


def test_the_claim_of_a_killed_learner_is_free_at_once(tmp_path: Path) -> None:
    words = (
        "import sys, time; from pathlib import Path; from cifarctl.registry.claims import Claim, Stream; "
        "claim = Claim(Path(sys.argv[1]), Stream(None, 'other', 'g', 'production')); "
        "print(claim.hold(), flush=True); time.sleep(600)"
    )
    mine = Claim(tmp_path, MINE)
    with subprocess.Popen([sys.executable, "-c", words, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "True\n"
            with pytest.raises(AliasClaimed):
                mine.hold()
        finally:
            other.kill()
    assert mine.hold()
    mine.release()
