"""Export a network to ONNX in memory."""

from __future__ import annotations

import io
import warnings
from typing import Any

import torch
from torch.export import Dim

from cifarctl.models import telemetry
from cifarctl.models.preprocess import Whole

telemetry.switch_off()  # torch's newer exporter imports ONNX Runtime if it is installed

INPUT = "pixels"
OUTPUT = "probabilities"
OPSET = 18


def to_onnx(whole: Whole) -> bytes:
    """The ONNX file of `whole`, with a dynamic batch dimension. Exceptions of torch.onnx propagate."""
    example = (torch.zeros(2, 3, 32, 32, dtype=torch.uint8),)
    common: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT], "opset_version": OPSET}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as the older exporter's deprecation
        try:
            # The older exporter traces in 15 ms; the newer one takes 1-3 s, which would slow predictions at a swap.
            file = io.BytesIO()
            dynamic = {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}}
            torch.onnx.export(whole, example, file, dynamo=False, dynamic_axes=dynamic, **common)  # type: ignore[arg-type]
            return file.getvalue()
        except Exception:  # noqa: BLE001  an operator or the exporter itself is missing: try the newer one
            shapes = ({0: Dim("batch")},)
            program = torch.onnx.export(whole, example, dynamo=True, dynamic_shapes=shapes, verbose=False, **common)
            assert program is not None  # None only if a file is named
            content: bytes = program.model_proto.SerializeToString()
            return content
