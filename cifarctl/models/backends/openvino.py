"""OpenVINO on the CPU, for x86-64 and Arm processors."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from cifarctl.models.backends import Backend, Network, Plan
from cifarctl.models.export import to_onnx
from cifarctl.models.predictor import Precision

_HINTS: dict[Precision, str] = {"float32": "f32", "bfloat16": "bf16"}

T = TypeVar("T")


class OpenVino(Backend):
    """bfloat16 if the processor has instructions for it, otherwise float32 only."""

    name = "openvino"
    packages = ("openvino", "onnx")

    def __init__(self, network: Network, plan: Plan) -> None:
        super().__init__(network, plan)
        import openvino

        model = to_onnx(network.whole())
        options = {
            "INFERENCE_PRECISION_HINT": _HINTS[plan.precision],
            "INFERENCE_NUM_THREADS": plan.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # all replicas on a machine would be pinned to the same cores
        }

        def compiled() -> Any:
            core = openvino.Core()
            return core.compile_model(core.read_model(model), "CPU", options).create_infer_request()

        self._request = _aside(compiled)

    @classmethod
    def precisions(cls) -> tuple[Precision, ...]:
        """bfloat16 only with hardware support, as it would be emulated otherwise."""
        import openvino

        capabilities = _aside(lambda: openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        return ("float32", "bfloat16") if "BF16" in capabilities else ("float32",)

    def _run(self, pixels: torch.Tensor) -> torch.Tensor:
        (probabilities,) = self._request.infer({0: pixels.numpy()}, share_inputs=True).values()
        return torch.from_numpy(probabilities)


def _aside(call: Callable[[], T]) -> T:
    """Make a call that loads OpenVINO's CPU plugin, in a thread of its own that ends afterwards.

    The plugin installs an alternate signal stack (sigaltstack) in the loading thread. When the plugin is unloaded, from
    any thread, it unmaps that stack, and the loading thread keeps a dangling address. If that were the main thread,
    the next signal would crash the process: SIGTERM ended `serve` with SIGSEGV.
    """
    with ThreadPoolExecutor(1, "openvino") as alone:
        return alone.submit(call).result()


BACKEND = OpenVino
