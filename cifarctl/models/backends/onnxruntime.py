"""ONNX Runtime on the CPU."""

from __future__ import annotations

import torch

from cifarctl.models.backends import Backend, Network, Plan
from cifarctl.models.export import INPUT, to_onnx


class OnnxRuntime(Backend):
    """float32 only: its CPU kernels do not support bfloat16."""

    name = "onnxruntime"
    packages = ("onnxruntime", "onnx")

    def __init__(self, network: Network, plan: Plan) -> None:
        super().__init__(network, plan)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = plan.threads
        options.inter_op_num_threads = 1
        # Spinning threads would take CPU time from the Kafka client and the learner.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors
        self._session = onnxruntime.InferenceSession(
            to_onnx(network.whole()), options, providers=["CPUExecutionProvider"]
        )

    def _run(self, pixels: torch.Tensor) -> torch.Tensor:
        (probabilities,) = self._session.run(None, {INPUT: pixels.numpy()})
        return torch.from_numpy(probabilities)


BACKEND = OnnxRuntime
