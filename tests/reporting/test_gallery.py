import io
import json
import re

import numpy as np
import pytest
from hand import adversarial, record
from PIL import Image
from safetensors.numpy import save_file

from rfdlight.cli.report import report_runs
from rfdlight.errors import UserError
from rfdlight.records.run_folders import load_runs
from rfdlight.reporting import gallery
from rfdlight.reporting.formats import html_page
from rfdlight.reporting.gallery import examples
from rfdlight.reporting.report import compile_report


def store(run, clean, adversarial, ids):
    save_file({"clean": clean, "adversarial": adversarial}, f"{run}/images.safetensors", {"ids": json.dumps(ids)})


def ids(*numbers):
    return [f"digits/test/{number:04d}" for number in numbers]


def grey(*shape):
    return np.full(shape, 0.5, np.float32)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_a_run_without_the_file_has_no_gallery(write):
    (run,) = load_runs([write("run", [record(0)])])
    assert examples(run) == []


def test_pictures_are_those_of_the_file_and_the_difference_is_magnified_to_the_radius(write):
    name = write("run", [record(0), adversarial(1, 7)], eps=0.2)
    clean, final = grey(2, 3, 2, 4), grey(2, 3, 2, 4)
    final[0, 0, 1, 2] += 0.2
    final[0, 2, 0, 0] -= 0.1
    store(name, clean, final, ids(1, 0))
    (run,) = load_runs([name])
    first, second = examples(run)
    assert (first.id, first.outcome) == ("digits/test/0001", "adversarial")
    assert list(first.pictures) == ["clean", "attacked", "difference, times 2.5"]
    assert pixels(first.pictures["clean"]).shape == (2, 4, 3)
    assert (pixels(first.pictures["clean"]) == 128).all()
    changed = pixels(first.pictures["attacked"])
    assert (changed[1, 2, 0], changed[0, 0, 2], changed[0, 1, 0]) == (round(255 * 0.7), round(255 * 0.4), 128)
    # 0.2 is the radius: white; half of it downwards: half of grey.
    difference = pixels(first.pictures["difference, times 2.5"])
    assert (difference[1, 2, 0], difference[0, 0, 2], difference[0, 1, 0]) == (255, 64, 128)
    assert (pixels(second.pictures["unchanged"]) == 128).all()


def test_in_l2_the_largest_change_of_an_image_is_black_or_white(write):
    name = write("run", [record(0)], norm="l2", eps=1.0)
    clean, adversarial = grey(1, 1, 3, 3), grey(1, 1, 3, 3)
    adversarial[0, 0, 0, 0] -= 0.05
    store(name, clean, adversarial, ids(0))
    (example,) = examples(load_runs([name])[0])
    assert pixels(example.pictures["difference, times 10"]).tolist() == [
        [0, 128, 128],
        [128, 128, 128],
        [128, 128, 128],
    ]


def test_the_page_shows_the_first_images_with_what_became_of_them(write):
    wrong = {
        "clean_margin": -1.0,
        "clean_verdict": "wrong",
        "clean_prediction": 7,
        "final_prediction": 7,
        "verdict": "misclassified",
    }
    unchanged = {"attack": 0, "billed": 0, "linf": 0.0, "l2": 0.0}
    first = adversarial(0, 7, label=4, clean_prediction=4)
    attacked = record(2, clean_margin=-0.1, clean_verdict="undecided")
    name = write("run", [first, record(1, **wrong, **unchanged), attacked, *(record(i) for i in range(3, 9))])
    store(name, grey(9, 1, 2, 2), grey(9, 1, 2, 2), ids(*range(9)))
    (run,) = load_runs([name])
    text = html_page(compile_report([run]), b"curves", [(run, examples(run))])
    shown = re.findall(r'<span class="verdict">(.*?)</span>; (.*?)<br>(.*?)</figcaption>', text)
    assert shown[0] == (
        "adversarial",
        "label 4, predicted 4, after the attack 5; 7 queries; linf 0.2, l2 5",
        "digits/test/0000",
    )
    assert shown[1] == (
        "misclassified before the attack",
        "label 3, predicted 7, after the attack 7; 0 queries; linf 0, l2 0",
        "digits/test/0001",
    )
    assert shown[2][0] == "robust"
    assert len(shown) == 6
    assert text.count("data:image/png;base64,") == 1 + 3 * 6


def refusal(name):
    with pytest.raises(UserError) as caught:
        report_runs([name], "out")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("clean", "adversarial", "names", "expected"),
    [
        (grey(1, 3, 2, 2), grey(1, 3, 2, 3), ids(0), "got (1, 3, 2, 2) and (1, 3, 2, 3) with 1 ids"),
        (grey(1, 0, 2, 2), grey(1, 0, 2, 2), ids(0), "got (1, 0, 2, 2) and (1, 0, 2, 2)"),
        (grey(3, 2, 2), grey(3, 2, 2), ids(0), "got (3, 2, 2) and (3, 2, 2)"),
        (grey(1, 3, 2, 2), grey(1, 3, 2, 2), ids(0, 1), "with 2 ids"),
        (grey(1, 3, 2, 2), grey(1, 3, 2, 2), ids(5), "an id of the run for each image"),
        (grey(1, 3, 2, 2), grey(1, 3, 2, 2), {"a": 1}, "expected array, got object"),
    ],
)
def test_foreign_images_are_refused_in_one_line(write, tmp_path, clean, adversarial, names, expected):
    name = write("run", [record(0)])
    store(name, clean, adversarial, names)
    message = refusal(name)
    assert message.startswith("run/images.safetensors")
    assert expected in message
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_is_refused_in_one_line(write, tmp_path):
    name = write("run", [record(0)])
    path = tmp_path / name / "images.safetensors"
    foreign = "run/images.safetensors holds no images of a run: expected clean, adversarial and ids, got: "
    path.write_bytes(b"")
    assert refusal(name).startswith(foreign)
    path.write_bytes(b"\xff" * 100)
    assert refusal(name).startswith(foreign)
    save_file({"clean": grey(1, 3, 2, 2)}, path, {"ids": json.dumps(ids(0))})
    assert refusal(name).startswith(foreign)
    save_file({"clean": grey(1, 3, 2, 2), "adversarial": grey(1, 3, 2, 2)}, path)
    assert refusal(name).startswith(foreign)
    save_file({"clean": grey(1, 3, 2, 2), "adversarial": grey(1, 3, 2, 2)}, path, {"ids": "[1"})
    assert refusal(name).startswith(foreign)
    path.unlink()
    path.mkdir()
    assert refusal(name).startswith("cannot read the images run/images.safetensors: ")
    assert not (tmp_path / "out").exists()


def test_channels_that_are_no_colours_are_shown_as_their_mean():
    pixels = np.linspace(0, 1, 4)[:, None, None] * np.ones((4, 1, 1))
    assert np.asarray(Image.open(io.BytesIO(gallery._png(pixels)))).tolist() == [[round(255 / 2)]]
