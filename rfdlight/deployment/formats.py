"""Formats of exported files: a traced model as ONNX or as an exported program of torch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from rfdlight._io import replacing
from rfdlight.core.extras import imported
from rfdlight.core.quiet import quiet
from rfdlight.errors import UserError, expect, legible, one_line

Format = Literal["onnx", "torch-export"]

SUFFIXES: dict[str, str] = {"onnx": ".onnx", "torch-export": ".pt2"}
"""Suffix of a file by its format."""

PACKAGES = {"onnx": ("torch", "onnx", "onnxscript", "onnxruntime"), "torch-export": ("torch",)}
"""Packages that a format needs."""

INPUT, OUTPUT = "pixels", "logits"
"""Names of the input and of the output in ONNX."""

_MOST_BYTES = 1_900_000_000
"""Of the weights in one file of ONNX, whose format ends at 2 GiB."""

_ONNX_DRAWS = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
"""Operators of ONNX that return random numbers."""


def check_installed(format: Format) -> None:
    """Raise a UserError that names the extra, if a package of a format is not installed."""
    for package in PACKAGES[format]:
        imported(package, "onnx", f"format {format}")


def package_versions(format: Format) -> dict[str, str]:
    """Return the versions of rfdlight and of the packages of a format."""
    return {name: version(name) for name in (*PACKAGES[format], "rfdlight")}


def trace(victim: nn.Module, x: Tensor) -> ExportedProgram:
    """Trace a victim in eval mode, with its defenses attached, for any number of rows.

    Args:
        victim: From pixels to logits.
        x: Example pixels, (rows, C, H, W), of at least 2 rows.

    Raises:
        UserError: If `torch.export` cannot trace the victim, such as a TorchScript file or a quantized network, or
            traces it for one number of rows alone.
    """
    printed = StringIO()
    try:
        # torch prints what it has traced before it raises.
        with torch.no_grad(), redirect_stderr(printed), _traceable("torch.export", "trace"):
            program = torch.export.export(victim, (x,), dynamic_shapes=({0: Dim("batch")},), strict=False)
    except UserError as error:
        opaque = _opaque(victim)
        if opaque is None:
            raise
        hint = "export the network that it was made from"
        # The layer need not be the cause, so the reason of torch stays.
        line = f"model: expected layers that torch.export can trace, got {opaque}; {hint}; {error}"
        raise UserError(legible(line)) from error
    sys.stderr.write(printed.getvalue())  # of the victim's own code
    return program


def _opaque(victim: nn.Module) -> str | None:
    """Return the kind and the name of the first layer that holds its weights where torch cannot trace them."""
    for name, module in victim.named_modules():
        place = name or "the network itself"
        if isinstance(module, torch.jit.ScriptModule):
            return f"TorchScript in {place}"
        if any(isinstance(value, torch.ScriptObject) for value in vars(module).values()):
            return f"quantized weights in {place}"
    return None


def write_program(program: ExportedProgram, file: Path) -> None:
    """Write an exported program of torch."""
    with replacing(file) as partial, quiet(), partial.open("wb") as stream:
        torch.export.save(program, stream)


def to_onnx(program: ExportedProgram) -> Any:
    """Return the protobuf of a traced victim in ONNX, its input `pixels` and its output `logits`.

    Raises:
        UserError: If an operator has no form in ONNX, or the weights exceed one file.
    """
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    expect(size <= _MOST_BYTES, "format onnx", "weights of at most 1.9 GB", f"{size / 1e9:.1f} GB", "use torch-export")
    with torch.no_grad(), _traceable("torch.onnx", "convert"):
        made = torch.onnx.export(program, dynamo=True, verbose=False, input_names=[INPUT], output_names=[OUTPUT])
    assert made is not None  # no file was given
    return made.model_proto


def write_onnx(proto: Any, file: Path) -> None:
    """Write a model of ONNX, with its weights inside."""
    write = proto.SerializeToString()
    with replacing(file) as partial:
        partial.write_bytes(write)


def with_noise(proto: Any) -> Any:
    """Return a copy of a model of ONNX with every tensor of random numbers as a further output, in their order."""
    import onnx

    tapped = onnx.ModelProto()
    tapped.CopyFrom(proto)
    for node in tapped.graph.node:
        if node.op_type in _ONNX_DRAWS:
            tapped.graph.output.append(onnx.ValueInfoProto(name=node.output[0]))
    return tapped


def opset_of(proto: Any) -> int:
    """Return the version of the operators of a model of ONNX."""
    return next(each.version for each in proto.opset_import if each.domain in ("", "ai.onnx"))


@contextmanager
def _traceable(tool: str, verb: str) -> Iterator[None]:
    """Convert an exception of a tool of torch to a UserError, and drop its log."""
    try:
        with quiet():
            yield
    except Exception as error:  # a user's own code runs inside, and the tools raise classes of many kinds
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = one_line(str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__)
        raise UserError(legible(f"{tool} cannot {verb} the defended network: {reason:.300}")) from error
