"""Keep the libraries that run networks from reporting home; to be called before any of them is imported.

Where nothing is done ONNX Runtime writes an id and a queue of events to ``~/.cache/Microsoft/DeveloperTools`` and sends
them to Microsoft, and OpenVINO writes an id to ``~/intel`` and sends events to Google Analytics, both by their mere
import. ONNX Runtime obeys an environment variable, which child processes inherit. OpenVINO has a switch for each user
alone (``opt_in_out``, a file in the home folder); it does without the package that sends where that is not installed.
"""

from __future__ import annotations

import os
import sys

SENDER = "openvino_telemetry"
VARIABLES = {"ORT_DISABLE_TELEMETRY": "1"}


def switch_off() -> None:
    """Doing it again changes nothing. A sender that this process has imported before, for itself, is left alone."""
    os.environ.update(VARIABLES)
    if SENDER not in sys.modules:
        sys.modules[SENDER] = None  # type: ignore[assignment]  # its import fails, as if it were not installed
