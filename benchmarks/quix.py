"""The same service written with quix-streams: the other stream-processing side of the comparisons.

As its documentation has one write it: an Application with one of the two processing guarantees, a topic of raw images
in, `sdf.apply` with the model, `to_topic` as JSON; one message at a time, which is what the library offers without
state; commits at its default (every 5 s), or as often as it is told to. The network is the tutorial's with the weights
that `cifarctl serve` gets, in float32 and, which is faster for one image, on one thread. It answers what the tutorial's
consumer answers.

    python -m benchmarks.quix --servers HOST:PORT --topic NAME --predictions NAME --model FILE.pt --count N
                              --guarantee at-least-once|exactly-once [--commit-interval SECONDS]

Prints one JSON document; the rate is from the first message read to the last one answered. quix-streams pins an older
confluent-kafka than ours, so it lives in a folder of its own, which benchmarks/stream.py puts before the others:
`make bench` does

    pip install --target .venv/quix -r benchmarks/requirements-quix.txt
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quixstreams import Application

from benchmarks.tutorial import PATIENCE_S, Net, Streamed, load


def consume(
    servers: str,
    topic: str,
    predictions: str,
    model: Net,
    guarantee: Any,
    count: int,
    commit_interval: float = 5.0,  # its default
) -> Streamed:
    """Predict the first `count` messages of `topic`.

    Raises:
        TimeoutError: they did not come.
    """
    began = ended = 0.0
    handled = correct = 0

    def predict(value: bytes, _key: object, _timestamp: int, headers: Any) -> dict[str, Any]:
        nonlocal began, ended, handled, correct
        began = began or time.perf_counter()
        pixels = torch.from_numpy(np.frombuffer(value, dtype=np.uint8).copy()).reshape(1, 3, 32, 32)
        with torch.inference_mode():
            probabilities = torch.softmax(model(pixels.float().div_(127.5).sub_(1)), dim=1)
        confidence, predicted = probabilities.max(1)
        told = dict(headers)
        label, choice = int(told["label"]), int(predicted.item())
        handled, correct, ended = handled + 1, correct + (choice == label), time.perf_counter()
        return {
            "id": told["id"].decode(),
            "label": label,
            "label_predicted": choice,
            "confidence": float(confidence.item()),
        }

    folder = tempfile.TemporaryDirectory(prefix="quix-")  # of state, which this application has none of
    app = Application(
        broker_address=servers,
        consumer_group=f"quix-{uuid.uuid4().hex}",
        auto_offset_reset="earliest",
        processing_guarantee=guarantee,
        commit_interval=commit_interval,
        loglevel="ERROR",
        state_dir=folder.name,
    )
    frame = app.dataframe(app.topic(topic, value_deserializer="bytes"))
    frame = frame.apply(predict, metadata=True)
    frame = frame.to_topic(app.topic(predictions, value_serializer="json"))
    app.run(count=count, timeout=PATIENCE_S, collect=False)
    folder.cleanup()
    if handled < count:
        raise TimeoutError(f"{topic}: {handled} of {count} messages came, then none for {PATIENCE_S} s")
    seconds = ended - began
    return Streamed(handled, seconds, handled / seconds, correct / handled)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quix")
    for name in ("servers", "topic", "predictions"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--guarantee", choices=("at-least-once", "exactly-once"), required=True)
    parser.add_argument("--commit-interval", type=float, default=5.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = load(given.model).eval()
    result = consume(
        given.servers, given.topic, given.predictions, model, given.guarantee, given.count, given.commit_interval
    )
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
