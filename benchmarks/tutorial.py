"""The tutorial's three scripts (trainer, producer, consumer), the other side of the comparisons.

They are written as the tutorial writes them: images decoded and normalised one by one by a DataLoader, batches of
32, Adam at a fixed rate, float32; a producer that sends JSON and flushes after every message; a consumer that puts
one image at a time through the network. Nothing is slowed down, and what the tutorial leaves to a default is left to
it. Left out is the consumer's fine-tuning thread, which would only make it slower. Seeds, a count at which to stop
and timing are added.

    python -m benchmarks.tutorial train --data DIR [--epochs 10] [--seed 0] [--save FILE.pt]
    python -m benchmarks.tutorial produce --data DIR --servers HOST:PORT --topic NAME --count N [--interval 5]
    python -m benchmarks.tutorial consume --servers HOST:PORT --topic NAME --predictions NAME --model FILE.pt --count N

Each prints one JSON document.
"""

from __future__ import annotations

import argparse
import base64
import json
import time
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kafka import KafkaConsumer, KafkaProducer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import CIFAR10

BATCH_SIZE = 32
LEARNING_RATE = 1e-3
PATIENCE_S = 30  # how long the consumer waits for a next message before it gives up


class Net(nn.Module):
    """The tutorial's CNN."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1 = nn.Linear(64 * 4 * 4, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, 3, 32, 32) to logits (B, 10)."""
        x = self.pool(functional.relu(self.conv1(x)))
        x = self.pool(functional.relu(self.conv2(x)))
        x = self.pool(functional.relu(self.conv3(x)))
        x = x.view(-1, 64 * 4 * 4)
        x = functional.relu(self.fc1(x))
        logits: Tensor = self.fc2(x)
        return logits


@dataclass(frozen=True)
class Trained:
    """What the trainer reached; `epoch_seconds` without loading and testing."""

    epochs: int
    train_images: int
    test_accuracy: float
    epoch_seconds: list[float]


@dataclass(frozen=True)
class Streamed:
    """What a producer or consumer handled, from its first message to its last; `accuracy` of the consumer."""

    messages: int
    seconds: float
    messages_per_second: float
    accuracy: float | None = None


def images(data: Path, *, train: bool) -> CIFAR10:
    """CIFAR-10 from `data`: pairs of a normalised float32 image (3, 32, 32) and its class."""
    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))],
    )
    return CIFAR10(root=str(data), train=train, download=False, transform=transform)


def train(data: Path, epochs: int, seed: int) -> tuple[Net, Trained]:
    """Train on the 50,000 training images, then test on the 10,000 others."""
    torch.manual_seed(seed)
    examples = images(data, train=True)
    loader = DataLoader(examples, batch_size=BATCH_SIZE, shuffle=True)
    model = Net()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    epoch_seconds = []
    for _ in range(epochs):
        began = time.perf_counter()
        model.train()
        running_loss = 0.0
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        epoch_seconds.append(time.perf_counter() - began)
    accuracy = test(model, data)
    return model, Trained(epochs, len(examples), accuracy, epoch_seconds)


def test(model: nn.Module, data: Path) -> float:
    """Share of the test images that `model` gets right."""
    model.eval()
    correct = total = 0
    with torch.no_grad():
        for inputs, labels in DataLoader(images(data, train=False), batch_size=BATCH_SIZE):
            correct += int((model(inputs).argmax(1) == labels).sum())
            total += len(labels)
    return correct / total


def produce(
    servers: str, topic: str, examples: Iterable[tuple[Tensor, int]], *, count: int, interval: float = 5.0
) -> Streamed:
    """Send the first `count` of `examples` as JSON, one every `interval` seconds."""
    producer = KafkaProducer(bootstrap_servers=servers, value_serializer=lambda value: json.dumps(value).encode())
    began = time.perf_counter()
    sent = 0
    for image, label in examples:
        message = {
            "image": base64.b64encode(image.numpy().tobytes()).decode(),
            "label": int(label),
            "id": str(sent),
        }
        producer.send(topic, value=message)
        producer.flush()
        sent += 1
        if sent == count:
            break
        time.sleep(interval)
    seconds = time.perf_counter() - began
    producer.close()
    return Streamed(sent, seconds, sent / seconds)


def consume(servers: str, topic: str, predictions: str, model: nn.Module, *, count: int) -> Streamed:
    """Predict `count` messages of `topic` from its beginning, each by a forward pass of its own.

    Raises:
        TimeoutError: the messages did not come.
    """
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=servers,
        group_id=f"tutorial-{uuid.uuid4().hex[:8]}",
        auto_offset_reset="earliest",
        consumer_timeout_ms=PATIENCE_S * 1000,
        value_deserializer=json.loads,
    )
    producer = KafkaProducer(bootstrap_servers=servers, value_serializer=lambda value: json.dumps(value).encode())
    model.eval()
    began = 0.0
    handled = correct = 0
    for message in consumer:
        began = began or time.perf_counter()
        value: dict[str, Any] = message.value
        pixels = np.frombuffer(base64.b64decode(value["image"]), dtype=np.float32).copy()
        image = torch.from_numpy(pixels).reshape(1, 3, 32, 32)
        with torch.no_grad():
            probabilities = torch.softmax(model(image), dim=1)
        confidence, predicted = probabilities.max(1)
        correct += int(predicted.item() == value["label"])
        producer.send(
            predictions,
            value={
                "id": value["id"],
                "label": value["label"],
                "label_predicted": int(predicted.item()),
                "confidence": float(confidence.item()),
            },
        )
        handled += 1
        if handled == count:
            break
    producer.flush()
    seconds = time.perf_counter() - began
    consumer.close()
    producer.close()
    if handled < count:
        raise TimeoutError(f"{topic}: {handled} of {count} messages came, then none for {PATIENCE_S} s")
    return Streamed(handled, seconds, handled / seconds, correct / handled)


def load(file: Path) -> Net:
    """The network whose weights torch.save wrote to `file`."""
    model = Net()
    model.load_state_dict(torch.load(file, weights_only=True))
    return model


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tutorial")
    scripts = parser.add_subparsers(dest="script", required=True)
    trainer, producer, consumer = (scripts.add_parser(name) for name in ("train", "produce", "consume"))
    trainer.add_argument("--epochs", type=int, default=10)
    trainer.add_argument("--seed", type=int, default=0)
    trainer.add_argument("--save", type=Path)
    for script in (trainer, producer):
        script.add_argument("--data", type=Path, required=True)
    for script in (producer, consumer):
        script.add_argument("--servers", required=True)
        script.add_argument("--topic", required=True)
        script.add_argument("--count", type=int, required=True)
    producer.add_argument("--interval", type=float, default=5.0)
    consumer.add_argument("--predictions", required=True)
    consumer.add_argument("--model", type=Path, required=True)
    consumer.add_argument("--threads", type=int, help="of the network; left to PyTorch by the tutorial")
    given = parser.parse_args()

    result: Trained | Streamed
    if given.script == "train":
        model, result = train(given.data, given.epochs, given.seed)
        if given.save:
            torch.save(model.state_dict(), given.save)
    elif given.script == "produce":
        result = produce(
            given.servers, given.topic, images(given.data, train=True), count=given.count, interval=given.interval
        )
    else:
        if given.threads:
            torch.set_num_threads(given.threads)
        result = consume(given.servers, given.topic, given.predictions, load(given.model), count=given.count)
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
