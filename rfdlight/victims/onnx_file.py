"""Victims in ONNX, run by ONNX Runtime."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rfdlight._io import expanded, read_bytes
from rfdlight.core.extras import imported
from rfdlight.errors import UserError, legible, one_line
from rfdlight.victims.arrays import ArrayVictim, Outputs
from rfdlight.victims.loaded import LoadedVictim
from rfdlight.victims.schemes import file_digest, place_of

_DRAWS = (b"RandomNormal", b"RandomUniform", b"Bernoulli", b"Multinomial", b"Dropout")
"""Operators that draw random numbers, as a file names them."""

_LOCATION = re.compile(rb"\x0a\x08location\x12([\x01-\x7f])")
"""Field of the protobuf of a tensor whose values are in another file: its key, and the length of the file's name."""

_MOST_SESSIONS = 4
"""Of a file with noise: those of the attack, of the success criterion and of checks."""

_FATAL = 4
"""Severity of log lines of ONNX Runtime that are printed; its errors are raised as well."""


class ONNXVictim(ArrayVictim):
    """A classifier in an ONNX file, on the CPU by ONNX Runtime.

    A file that draws noise has one session for each stream of random numbers: ONNX Runtime seeds a session where it is
    made, here by the seed of torch's global generator. So the noise follows the seed of an evaluation, differs between
    its processes and attempts, and attack and success criterion do not share it.

    Args:
        file: Path of a file with one input, pixels (N, C, H, W) float32 in [0, 1], and a single output or one named
            `logits`.
        outputs: "logits", or "probabilities", whose logarithms are the logits.

    Raises:
        UserError: If ONNX Runtime is missing or the file cannot be used, and in a forward pass if it fails.
    """

    def __init__(self, file: str | Path, *, outputs: Outputs = "logits") -> None:
        self.file = expanded(str(file))
        digests = [file_digest(self.file)]
        content = read_bytes(self.file)
        digests += [file_digest(self.file.parent / name) for name in _further_files(content)]
        super().__init__(f"ONNX file of sha256 {' and '.join(digests)}", outputs)
        self._runtime: Any = imported("onnxruntime", "onnx", f"the victim 'onnx:{file}'")
        self._random = any(name in content for name in _DRAWS)
        self._made: Counter[int] = Counter()
        self._sessions: dict[int, Any] = {}
        session = self._session()
        self._input, self._shape = _input_of(session, self.file)
        self._output = _output_of(session, self.file)

    def answer(self, x: np.ndarray) -> Any:
        expected = [size if isinstance(size, int) else "any" for size in self._shape]
        if len(expected) != 4 or any(size not in ("any", got) for size, got in zip(expected, x.shape, strict=True)):
            hint = f"; give --model.batch_size {expected[0]}" if expected[0] not in ("any", len(x)) else ""
            raise UserError(f"{self.file} takes pixels of shape {_form(expected)}, got {_form(x.shape)}{hint}")
        try:
            return self._session().run([self._output], {self._input: x})[0]
        except Exception as error:  # its classes are many, and some derive from Exception alone
            raise UserError(legible(f"ONNX Runtime cannot run {self.file}: {one_line(error)[:300]}")) from error

    def _session(self) -> Any:
        """Return the session of the present stream of random numbers, the only one for a file without noise."""
        stream = torch.initial_seed() if self._random else 0
        if stream not in self._sessions:
            self._sessions[stream] = self._make(stream)
            if len(self._sessions) > _MOST_SESSIONS:
                del self._sessions[next(iter(self._sessions))]
        return self._sessions[stream]

    def _make(self, stream: int) -> Any:
        options = self._runtime.SessionOptions()
        options.log_severity_level = _FATAL
        key = f"{stream}:{self._made[stream]}"  # a stream that was dropped goes on with new noise
        self._made[stream] += 1
        self._runtime.set_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) >> 1)
        try:
            return self._runtime.InferenceSession(str(self.file), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise UserError(legible(f"cannot read {self.file} as ONNX: {one_line(error)[:300]}")) from error


def load_onnx(spec: str) -> LoadedVictim:
    """Load the victim `onnx:FILE`."""
    victim = ONNXVictim(place_of(spec)).eval()
    return LoadedVictim(victim, f"{spec}, {victim.identity}, clean accuracy unknown")


def _further_files(content: bytes) -> list[str]:
    """Return the names of the files in which a file keeps weights, sorted."""
    found = {content[match.end() : match.end() + match[1][0]] for match in _LOCATION.finditer(content)}
    return sorted(name.decode("utf-8", "replace") for name in found)


def _input_of(session: Any, file: Path) -> tuple[str, list[Any]]:
    """Return the name and the shape of the input of a file."""
    found = session.get_inputs()
    if len(found) != 1 or found[0].type != "tensor(float)":
        got = ", ".join(f"{each.name} {each.type}" for each in found) or "none"
        raise UserError(legible(f"{file}: expected one input, float32 pixels (N, C, H, W), got {got}"))
    return found[0].name, list(found[0].shape)


def _output_of(session: Any, file: Path) -> str:
    """Return the name of the output with the logits."""
    names = [each.name for each in session.get_outputs()]
    if len(names) != 1 and "logits" not in names:
        raise UserError(legible(f"{file}: expected one output or one named logits, got {', '.join(names)}"))
    return "logits" if "logits" in names else names[0]


def _form(shape: Any) -> str:
    return f"({', '.join(map(str, shape))})"
