"""OpenVINO on the CPU: x86-64 and Arm processors of any maker."""

from __future__ import annotations

import torch

from cifarctl.models.backends import Backend, Network, Plan
from cifarctl.models.export import to_onnx
from cifarctl.models.predictor import Precision

_HINTS: dict[Precision, str] = {"float32": "f32", "bfloat16": "bf16"}


class OpenVino(Backend):
    """bfloat16 where the processor has instructions for it."""

    name = "openvino"
    packages = ("openvino", "onnx")

    def __init__(self, network: Network, plan: Plan) -> None:
        super().__init__(network, plan)
        import openvino

        core = openvino.Core()
        model = core.read_model(to_onnx(network.whole()))
        options = {
            "INFERENCE_PRECISION_HINT": _HINTS[plan.precision],
            "INFERENCE_NUM_THREADS": plan.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # replicas on one machine would all be pinned to the same cores
        }
        self._request = core.compile_model(model, "CPU", options).create_infer_request()

    @classmethod
    def precisions(cls) -> tuple[Precision, ...]:
        """bfloat16 where the processor has it: elsewhere it would be emulated."""
        import openvino

        able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return ("float32", "bfloat16") if "BF16" in able else ("float32",)

    def _run(self, pixels: torch.Tensor) -> torch.Tensor:
        (probabilities,) = self._request.infer({0: pixels.numpy()}, share_inputs=True).values()
        return torch.from_numpy(probabilities)


BACKEND = OpenVino
