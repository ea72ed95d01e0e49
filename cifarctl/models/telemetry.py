"""Disable the telemetry of inference libraries; call this before importing any of them.

By default, importing ONNX Runtime writes an id and a queue of events to ``~/.cache/Microsoft/DeveloperTools`` and sends
them to Microsoft. Importing OpenVINO writes an id to ``~/intel`` and sends events to Google Analytics. ONNX Runtime
obeys an environment variable, which child processes inherit. OpenVINO has only a per-user switch (``opt_in_out``, a
file in the home folder), but works without its telemetry package, so this module hides that package.
"""

from __future__ import annotations

import os
import sys

SENDER = "openvino_telemetry"
VARIABLES = {"ORT_DISABLE_TELEMETRY": "1"}


def switch_off() -> None:
    """Disable telemetry; idempotent. A telemetry package that was imported before is left alone."""
    os.environ.update(VARIABLES)
    if SENDER not in sys.modules:
        sys.modules[SENDER] = None  # type: ignore[assignment]  # its import fails, as if it were not installed
