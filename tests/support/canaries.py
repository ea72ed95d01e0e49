"""Trials whose snapshots are canaries."""

from __future__ import annotations

import copy

import torch
from helpers import Home
from torch import nn

from cifarctl.online.fit import Lesson
from cifarctl.online.strategies import Continual, Start, Strategy

CANARY = "production-canary"


def shown(home: Home) -> int | None:
    """The version that the canary's alias names."""
    alias = home.registry.alias(CANARY)
    return None if alias is None else alias.version


def story(home: Home) -> list[tuple[str, int | None]]:
    """What has happened to the canary's alias."""
    return [(move.action, move.to_version) for move in home.registry.history(CANARY)]


def nudging(start: Start) -> Strategy:
    """A lineage whose snapshots differ a little, each from the one before, and are none the better for it."""

    def learn(model: nn.Module, lesson: Lesson) -> nn.Module:
        model = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.0001)
        return model

    return Continual(start, learn)
