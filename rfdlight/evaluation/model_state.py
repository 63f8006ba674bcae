"""Temporary changes of a user's model: evaluation mode, device and memory format, undone at the end."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from rfdlight.victims.answers import device_of


@contextmanager
def unchanged(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put a model into eval mode on a device inside a with block, and restore it and all random states afterwards.

    Restored are training flags, parameters and buffers (device, memory format, `requires_grad`), the hooks of the
    model itself, and the random states of Python, numpy and torch on the CPU and on the device.
    """
    home = device_of(model)
    modes = {module: module.training for module in model.modules()}
    data = {parameter: (parameter.data, parameter.requires_grad) for parameter in model.parameters()}
    hooks = [dict(model._forward_hooks), dict(model._forward_pre_hooks)]
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            model.eval()
            if device != home:
                model.to(device)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        if device != home:
            model.to(home)
        for parameter, (values, needed) in data.items():
            parameter.data = values
            parameter.requires_grad_(needed)
        for module, mode in modes.items():
            module.training = mode
        for present, before in zip((model._forward_hooks, model._forward_pre_hooks), hooks, strict=True):
            for key in [key for key in present if key not in before]:
                del present[key]
