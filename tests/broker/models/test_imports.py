"""What the models import."""

from __future__ import annotations

import subprocess
import sys


def test_models_need_neither_kafka_nor_a_terminal() -> None:
    code = (
        "import sys, cifarctl.models.predictor\n"
        "sys.exit(bool({'confluent_kafka', 'typer', 'rich', 'cifarctl.data'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
