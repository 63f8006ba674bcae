"""Answers and noise of an exported file, in a process that imports neither rfdlight nor its defenses.

Run as `python -P fresh_process.py REQUEST ANSWERS`, two .npz files; `rfdlight.deployment.check` writes the first and
reads the second.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Arrays = list[np.ndarray]
Session = Callable[[np.ndarray, bool], Arrays]
"""From pixels, (rows, C, H, W) float32, to the logits, and if True, also those of another run and its random values."""

HEAD = 4096
"""Random numbers of a call that are kept, from its first row on."""
ROW = 1024
"""Random numbers of each row that are kept."""


def is_draw(operator: Any) -> bool:
    """Return whether an operator of torch returns random numbers; dropout and attention draw none in eval mode."""
    import torch

    if not isinstance(operator, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in operator.tags:
        return False
    return not any(word in operator.name() for word in ("dropout", "attention"))


def onnx_sessions(file: str, with_noise: str) -> Callable[[int | None], Session]:
    """Return a function from a seed, or None, to a new session of ONNX Runtime on the CPU."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)  # it warns of shapes that the tapped file leaves open

    def session(seed: int | None) -> Session:
        if seed is not None:
            onnxruntime.set_seed(seed)
        made = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        tapped = onnxruntime.InferenceSession(with_noise, providers=["CPUExecutionProvider"])
        name = made.get_inputs()[0].name

        def answer(x: np.ndarray, noise: bool) -> Arrays:
            return [made.run(None, {name: x})[0], *(tapped.run(None, {name: x}) if noise else [])]

        return answer

    return session


def torch_sessions(file: str) -> Callable[[int | None], Session]:
    """Return a function from a seed, or None, to a session of an exported program of torch on the CPU."""
    import torch
    from torch.fx import GraphModule, Interpreter

    torch.set_num_threads(1)  # threads of a process do not survive its fork
    module = torch.export.load(file).module()

    class Tapped(Interpreter):
        def __init__(self, graph: GraphModule) -> None:
            super().__init__(graph)
            self.noise: Arrays = []

        def run_node(self, n: Any) -> Any:
            result = super().run_node(n)
            if is_draw(n.target):
                self.noise.append(result.clone().numpy())
            return result

    def session(seed: int | None) -> Session:
        if seed is not None:
            torch.manual_seed(seed)

        def answer(x: np.ndarray, noise: bool) -> Arrays:
            with torch.no_grad():
                before = torch.get_rng_state()
                logits = module(torch.from_numpy(x))
                if not noise:
                    return [logits.numpy()]
                after = torch.get_rng_state()
                torch.set_rng_state(before)
                tapped = Tapped(module)
                again = tapped.run(torch.from_numpy(x))
                torch.set_rng_state(after)
            return [logits.numpy(), again.numpy(), *tapped.noise]

        return answer

    return session


def forked(work: Callable[[], np.ndarray], file: Path) -> None:
    """Run `work` in a forked process, and write its array to a file; wait for its end."""
    process = os.fork()
    if process:
        os.waitpid(process, 0)
        return
    try:
        np.save(file, work())
    finally:
        os._exit(0)


def _kept(arrays: Arrays, rows: int) -> dict[str, np.ndarray]:
    """Return the first random numbers of a call and of each of its rows, by names."""
    kept = {}
    for point, noise in enumerate(arrays):
        kept[f"head_{point}"] = noise.reshape(-1)[:HEAD]
        if noise.ndim and len(noise) % rows == 0:  # one part per row; another draw belongs to no row
            kept[f"row_{point}"] = noise.reshape(rows, -1)[:, :ROW]
    return kept


def main(request_file: str, answers_file: str) -> None:
    """Write the answers to a request."""
    request = np.load(request_file)
    file, tapped, x, calls = str(request["path"]), str(request["tapped"]), request["x"], int(request["calls"])
    seeds = request["seeds"].tolist()
    sessions = torch_sessions(file) if file.endswith(".pt2") else onnx_sessions(file, tapped)
    answers: dict[str, np.ndarray] = {}
    # First of all, before any session starts threads: a fork copies none of them.
    if hasattr(os, "fork"):
        workers = {"forked_0": None, "forked_1": None, "worker_0": seeds[0], "worker_1": seeds[1]}
        for name, seed in workers.items():
            part = Path(f"{answers_file}.{name}.npy")
            forked(lambda seed=seed: sessions(seed)(x, False)[0], part)  # type: ignore[misc]
            answers[name] = np.load(part)
    for name in ("unseeded_0", "unseeded_1"):
        answers[name] = sessions(None)(x, False)[0]
    for number, seed in enumerate(seeds[2:]):
        session, logits = sessions(seed), []
        for call in range(calls if number == 0 else 4):
            plain, *rest = session(x, call < 4)
            logits.append(plain)
            if not rest:
                continue
            again, *noise = rest
            answers |= {f"s{number}_c{call}_{name}": kept for name, kept in _kept(noise, len(x)).items()}
            if number == 0 and call == 0:
                answers["with_noise"] = again
                answers |= {f"noise_{point}": whole for point, whole in enumerate(noise)}
                answers["points"] = np.array(len(noise))
        answers[f"session_{number}"] = np.stack(logits)
    answers["one_row"] = sessions(seeds[2])(x[:1], False)[0]
    np.savez(answers_file, **answers)  # type: ignore[arg-type]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
