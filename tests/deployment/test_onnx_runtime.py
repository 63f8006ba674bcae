"""Facts on the random numbers of ONNX Runtime on the CPU, which the cards of exported files state."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def session(seed: int | None, points: int = 1):
    """A session whose outputs are uniform random numbers, one tensor per noise point."""
    make = onnx.helper
    value = [make.make_tensor_value_info(f"y{point}", onnx.TensorProto.FLOAT, ["n"]) for point in range(points)]
    nodes = [make.make_node("RandomUniformLike", ["x"], [each.name], low=0.0, high=1.0) for each in value]
    x = make.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n"])
    model = make.make_model(make.make_graph(nodes, "noise", [x], value), opset_imports=[make.make_opsetid("", 18)])
    model.ir_version = 9
    if seed is not None:
        onnxruntime.set_seed(seed)
    made = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda count: made.run(None, {"x": np.zeros(count, np.float32)})


def test_sessions_replay_the_noise_of_their_seed_and_unseeded_ones_that_of_the_seed_before():
    first, same, other = session(5)(100)[0], session(None)(100)[0], session(6)(100)[0]
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_the_next_seed_gives_one_noise_point_the_noise_of_the_next():
    one, two = session(5, points=2)(100)
    assert not np.array_equal(one, two)
    assert np.array_equal(session(6, points=2)(100)[0], two)


@pytest.mark.slow
def test_the_generator_repeats_after_2_to_the_31_less_2_numbers():
    draw, count, chunk = session(7), 2**31 - 2, 2**24
    first = draw(1000)[0]
    left = count - 1000
    while left:
        draw(min(left, chunk))
        left -= min(left, chunk)
    assert np.array_equal(draw(1000)[0], first)
