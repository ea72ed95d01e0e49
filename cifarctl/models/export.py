"""A network as an ONNX file in memory, for the runtimes that read one."""

from __future__ import annotations

import io
import warnings
from typing import Any

import torch
from torch.export import Dim

from cifarctl.models import telemetry
from cifarctl.models.preprocess import Whole

telemetry.switch_off()  # the newer exporter imports ONNX Runtime where that is installed

INPUT = "pixels"
OUTPUT = "probabilities"
OPSET = 18


def to_onnx(whole: Whole) -> bytes:
    """`whole` with a batch dimension of any size.

    Any exception that torch.onnx raises may come out of it.
    """
    example = (torch.zeros(2, 3, 32, 32, dtype=torch.uint8),)
    common: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT], "opset_version": OPSET}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the older exporter is on its way out, for one
        try:
            # The older one traces: 15 ms against 1-3 s, in which a new version's export would slow predictions down.
            file = io.BytesIO()
            dynamic = {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}}
            torch.onnx.export(whole, example, file, dynamo=False, dynamic_axes=dynamic, **common)  # type: ignore[arg-type]
            return file.getvalue()
        except Exception:  # noqa: BLE001  it lacks an operator, or torch has dropped it: the newer one may do
            shapes = ({0: Dim("batch")},)
            program = torch.onnx.export(whole, example, dynamo=True, dynamic_shapes=shapes, verbose=False, **common)
            assert program is not None  # it is where no file is named
            content: bytes = program.model_proto.SerializeToString()
            return content
