"""Command lines that meet hostile files, and the line that each is answered, with {folder} and {anything} in it."""

import gzip
import json
import os
import zipfile
import zlib

import torch
from fuzz.record_files import sealed
from safetensors.torch import save_file

from .hostile_files import (
    BOMB,
    CARD,
    CHECKPOINT,
    CIFAR,
    CODE,
    CUT_OFF,
    DEEP,
    EPS,
    FIT,
    IRREGULAR,
    LINK,
    MERGED,
    NO_IMAGE,
    NO_SAFETENSORS,
    NO_VICTIM,
    NOT_SAFE,
    OTHER_FORMAT,
    POPEN,
    RECORD,
    TAG,
    TEST,
    TOO_LARGE,
    TOO_MANY,
    TOO_MUCH_TEXT,
    Build,
    Case,
    archive,
    both,
    card,
    chunk,
    copy_victim,
    file,
    header,
    images,
    in_script,
    in_tar,
    in_torch,
    in_zip,
    link,
    of_python,
    parsed,
    pickled,
    picture,
    png,
    run,
    stopped,
    tagged,
    text,
)  # fmt: skip


def saved(content: object) -> Build:
    """What torch.save writes of something else than code."""
    return lambda folder, canary: torch.save(content, folder / "x.pt")


def beside(content) -> Build:
    """A card, and what has the name of its weights."""
    return both(copy_victim, file("x.safetensors", content))


WEIGHTS = {
    "pickle of protocol 0 beside a card": Case(beside(pickled(0)), CARD, f"x.safetensors{NO_SAFETENSORS}"),
    "pickle of protocol 1 beside a card": Case(beside(pickled(1)), CARD, f"x.safetensors{NO_SAFETENSORS}"),
    "torch.save beside a card": Case(beside(in_torch), CARD, f"x.safetensors{NO_SAFETENSORS}"),
    "pickle of protocol 0": Case(file("x.pth", pickled(0)), CHECKPOINT + "x.pth", f"x.pth{OTHER_FORMAT}"),
    "pickle of protocol 2": Case(file("x.ckpt", pickled(2)), FIT + "--model.checkpoint x.ckpt", f"x.ckpt{CODE}"),
    "torch.save": Case(file("x", in_torch), CHECKPOINT + "x", f"x{CODE}"),
    "pickle in a zip": Case(
        file("x.pt", lambda canary: in_zip(pickled(2)(canary))), CHECKPOINT + "x.pt", f"x.pt{CODE}"
    ),
    "zip that is larger than it says": Case(
        file("x.pt", in_zip(bytes(2**20), zipfile.ZIP_DEFLATED)),
        CHECKPOINT + "x.pt",
        "x.pt of {anything}",
    ),
    "tar of torch": Case(file("x.tar", in_tar), CHECKPOINT + "x.tar", f"x.tar{OTHER_FORMAT}"),
    "packed pickle": Case(
        file("x.gz", lambda canary: gzip.compress(pickled(2)(canary))),
        CHECKPOINT + "x.gz",
        f"x.gz{OTHER_FORMAT}",
    ),
    "script": Case(
        file("x.pt", in_script),
        CHECKPOINT + "x.pt",
        f"x.pt{CODE}",
    ),
    "calls of torch that make no sense": Case(
        file("x.pt", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02K\x03K\x04K\x05K\x06tR."),
        CHECKPOINT + "x.pt",
        f"x.pt{CODE}",
    ),
    "tensors without numbers": Case(
        saved({"weight": torch.zeros(1, device="meta")}),
        CHECKPOINT + "x.pt",
        "x.pt is no state dict: the tensor weight must hold plain numbers, one by one",
    ),
    "names that are none": Case(
        saved({1: torch.zeros(1)}),
        CHECKPOINT + "x.pt",
        "x.pt does not fit the network 'resnet8': it lacks 44 needed tensors, the first is bn1.bias; it has 1 other "
        "tensors, the first is 1",
    ),
    "header without end": Case(
        beside(b"\xff" * 7 + b"\x7f{}"), CARD, f"x.safetensors{NOT_SAFE}header too large"
    ),
    "header of megabytes": Case(
        file("x.pt", header(b"{" + b" " * 10_000_000 + b"}", b"0")),
        CHECKPOINT + "x.pt",
        "x.pt is not a readable safetensors file: its header has 10,000,002 bytes, expected at most 10,000,000",
    ),
    "tensors that overlap": Case(
        file("x.pt", header(
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
            bytes(8),
        )),
        CHECKPOINT + "x.pt",
        f"x.pt{NOT_SAFE}invalid offset for tensor {{anything}}",  # whichever of the two is read first
    ),
    "shape beyond memory": Case(
        file("x.pt", header(b'{"a":{"dtype":"F32","shape":[0,4611686018427387904,4611686018427387904],'
                              b'"data_offsets":[0,0]}}')),
        CHECKPOINT + "x.pt",
        "x.pt is not a readable safetensors file: Stride calculation overflowed",
    ),
    "weights without end": Case(
        link("x.pt", "/dev/zero"), CHECKPOINT + "x.pt", "cannot read the weights x.pt: it is no regular file"
    ),
    "pickle as scales": Case(
        both(copy_victim, file("x.scales.safetensors", pickled(2))),
        CARD + " --defense feature_noise --defense.layers layer1 --defense.sigma 0.1",
        "x.scales.safetensors is not a readable safetensors file: Error while deserializing header: header too large",
    ),
    "scales that never come": Case(
        both(copy_victim, lambda folder, canary: os.mkfifo(folder / "x.scales.safetensors")),
        CARD + " --defense feature_noise --defense.layers layer1 --defense.sigma 0.1",
        "x.scales.safetensors is not a readable safetensors file: {anything}",
    ),
    "tensor named as an order to the terminal": Case(
        file("x.pt", header(b'{"a\\u001b[2J":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}')),
        CHECKPOINT + "x.pt",
        "x.pt does not fit the network 'resnet8': it lacks 44 needed tensors, the first is bn1.bias; it has 1 other "
        "tensors, the first is a\\x1b[2J",
    ),
    "training with code": Case(file("x.ckpt", in_torch), FIT + "--ckpt_path x.ckpt", f"{{folder}}/x.ckpt{CODE}"),
    "training from elsewhere": Case(
        lambda folder, canary: None,
        FIT + "--ckpt_path http://localhost:9/x.ckpt",
        "no checkpoint at {folder}/http:/localhost:9/x.ckpt",
    ),
    "weights as a training": Case(
        copy_victim,
        FIT + "--ckpt_path x.safetensors",
        "{folder}/x.safetensors is no checkpoint of a training: expected what rfdlight fit keeps in its run, "
        "checkpoints/*.ckpt; weights alone go to --model.checkpoint",
    ),
}  # fmt: skip

CARDS = {
    f"card with {name}": Case(card(**facts), CARD, f"x.json is no victim card: {expected}")
    for name, facts, expected in (
        ("huge images", {"image_shape": [3, 10**9, 10**9]}, "Expected `int` <= 2048 - at `$.image_shape[1]`"),
        ("a mean that is none", {"mean": [float("nan")] * 3}, "JSON is malformed: {anything}"),
        ("an endless deviation", {"std": [float("inf")] * 3}, "JSON is malformed: {anything}"),
        ("an order to the terminal", {"data": "\x1b[2J"}, "data: expected printable text, got '\\x1b[2J'"),
        ("a network of two lines", {"network": "resnet8\nrfdlight: all is well"},
         "network: expected printable text, got 'resnet8\\nrfdlight: all is well'"),
        ("an unknown field of two lines", {"a\n\x1b[2J": 1}, "Object contains unknown field `a \\x1b[2J`"),
        ("a preparation that is none", {"preparation": {"size": "x"}},
         "Expected `int | array`, got `str` - at `$.preparation.size`"),
        ("more right answers than images", {"clean_correct": 10**9},
         "clean_correct: expected at most clean_total, got 1000000000"),
        ("an endless accuracy", {"clean_accuracy": float("inf")}, "JSON is malformed: {anything}"),
        ("options nested without end", {"network_options": {"a": json.loads("[" * 900 + "]" * 900)}},
         "{anything}"),
    )
}  # fmt: skip
CARDS |= {
    f"card of the network {network}": Case(
        card(network=network), CARD, f"the card x.json names the network '{network}', which timm does not have"
    )
    for network in ("hf-hub:someone/net", "local-dir:/net", "../../net")
}
CARDS |= {
    "card for more classes than memory": Case(
        card(num_classes=10**12),
        CARD,
        "x.safetensors has a head for 10 classes, the data has 1000000000000; to fine-tune it: rfdlight fit "
        "--model.network resnet8 --model.checkpoint x.safetensors",
    ),
    "card without end": Case(
        both(copy_victim, text("x.json", "[" * 100_000)),
        CARD,
        "x.json is no victim card: Expected `object`, got `array`",
    ),
}

SETTINGS = {
    **tagged("a config", "attack", TEST + "-c x.yaml", most=3),
    **tagged("a defense", "class_path", TEST + "--defense x.yaml"),
    **tagged("an attack", "class_path", "test --attack x.yaml"),
    **tagged("data", "class_path", TEST + "--data x.yaml"),
    **tagged("a sweep", "axes", "sweep x.yaml"),
    "aliases without end": Case(text("x.yaml", BOMB), TEST + "-c x.yaml", f"cannot read the config x.yaml: {TOO_MANY}"),
    "mappings without end": Case(text("x.yaml", MERGED), "sweep x.yaml", f"cannot read the config x.yaml: {TOO_MANY}"),
    "list in itself": Case(
        text("x.yaml", "attack: &a [*a]"), TEST + "--defense x.yaml", f"cannot read the config x.yaml: {TOO_MANY}"
    ),
    "lists without end": Case(
        text("x.yaml", DEEP),
        TEST + "-c x.yaml",
        "cannot read the config x.yaml: expected at most 50 levels of nesting, got more",
    ),
    "number of thousands of digits": Case(
        text("x.yaml", f"model: {{budget: {'9' * 5000}}}\n"),
        TEST + "-c x.yaml",
        "cannot read the config x.yaml: a value is not what it looks like or is tagged as: {anything}",
    ),
    "callback that starts a process": Case(
        text("x.yaml", f"trainer: {{callbacks: [{POPEN}]}}\n"),
        TEST + "-c x.yaml",
        of_python("trainer.callbacks", "subprocess.Popen"),
    ),
    "callback that gives a command": Case(
        text("x.yaml", "trainer: {callbacks: [{class_path: LambdaCallback, init_args: {setup: os.system}}]}\n"),
        TEST + "-c x.yaml",
        of_python("trainer.callbacks.setup", "os.system"),
    ),
    "schedule that binds a command": Case(
        text("x.yaml", "class_path: input_noise\ninit_args: {sigma: 1, schedule: {class_path: functools.partial, "
             "init_args: {func: os.system}}}\n"),
        TEST + "--defense x.yaml",
        of_python("defense.schedule", "functools.partial"),
    ),
}  # fmt: skip

NAMED = {
    f"{path} as {option}": Case(
        lambda folder, canary: None, f"{command} --{option} {path}", of_python(option, path)
    )
    for command, option, path in (
        ("test", "attack", "os.system"),
        ("test", "attack", "antigravity.X"),
        (TEST, "defense", "this.x"),
        (TEST, "data", "shutil.rmtree"),
        (TEST + "--defense input_noise --defense.sigma 1", "defense.schedule", "builtins.eval"),
        (TEST, "trainer.plugins", "pathlib.Path"),
        (FIT, "model.optimizer", "subprocess.Popen"),
        (FIT, "model.adversary", "os.system"),
    )
} | {
    f"{path} as victim": Case(lambda folder, canary: None, f"{TEST}--model.victim {path}", f"'{path}'{NO_VICTIM}")
    for path in ("os.abort", "os.getcwd", "sys.exit", "builtins.exit", "shutil.rmtree", "antigravity.X", "pip.main")
}  # fmt: skip
NAMED |= {
    "subprocess.Popen as trainer.logger": Case(
        lambda folder, canary: None,
        TEST + "--trainer.logger subprocess.Popen",
        "trainer.logger: expected true or false, got 'subprocess.Popen'",
    ),
    "function of Python as victim, by a name of one's own": Case(
        text("mine.py", "from os import abort as net\n"), TEST + "--model.victim mine.net", f"'mine.net'{NO_VICTIM}"
    ),
    "bound function of Python as victim": Case(
        text("bound.py", "import functools, os\nnet = functools.partial(os.open, 'canary', os.O_CREAT)\n"),
        TEST + "--model.victim bound.net",
        f"'bound.net'{NO_VICTIM}",
    ),
    "class that makes no module": Case(
        text("other.py", "class Net:\n    def __init__(self):\n        open('canary', 'w')\n"),
        TEST + "--model.victim other.Net",
        "'other.Net' must be a module, a class of modules or a function that makes a module",
    ),
}

IMAGES = {
    "image of 150 million pixels": Case(images(png(15_000, 10_000)), CIFAR, TOO_LARGE),
    "image of 10 billion pixels": Case(images(png(100_000, 100_000)), CIFAR, TOO_LARGE),
    "image that is cut off": Case(images(picture("PNG")[:60]), CIFAR, CUT_OFF),
    "image with a text without end": Case(
        images(png(32, 32, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**24))))), CIFAR, TOO_MUCH_TEXT
    ),
    "image that is a program": Case(images(EPS), CIFAR, NO_IMAGE),
    "image that is a drawing": Case(images(b'<svg xmlns="http://www.w3.org/2000/svg"/>'), CIFAR, NO_IMAGE),
    **{f"image that is a {kind}": Case(images(picture(kind)), CIFAR, NO_IMAGE) for kind in ("GIF", "TIFF", "PDF")},
    "image that links to a text": Case(images(link("cat.png", "/etc/passwd")), CIFAR, NO_IMAGE),
    "image without end": Case(images(link("cat.png", "/dev/zero")), CIFAR, IRREGULAR),
    "image that never comes": Case(images(lambda folder, canary: os.mkfifo(folder / "cat.png")), CIFAR, IRREGULAR),
    "archive with code": Case(
        archive,
        CIFAR,
        "the archive under root/cifar-10-batches-py is incomplete or damaged; remove it and use --data.download true",
    ),
}

REPORT = "report run --output out"
RUNS = {
    f"record that is {name}": Case(run(records=line + b"\n"), REPORT, f"run/records.jsonl, line 1: {expected}")
    for name, line, expected in (
        ("nested without end", b"[" * 100_000, "damaged: its checksum does not match"),
        ("a number of thousands of digits", b'{"id": ' + b"9" * 5000 + b"}", "damaged: its checksum does not match"),
        ("not a number", sealed(RECORD | {"linf": float("nan")}), "JSON is malformed: invalid character{anything}"),
        ("beyond counting", sealed(RECORD | {"billed": 10**20}), "billed: expected int <= 9007199254740991"),
        (
            "right more often than asked",
            sealed(RECORD | {"clean_wrong": 2}),
            "clean_wrong: expected at most 1, the clean evaluations, got 2",
        ),
        ("without draws", sealed(RECORD | {"final_evaluations": 0}), "final_evaluations: expected int >= 1"),
        ("without a name", sealed(RECORD | {"id": ["x"]}), "id: expected str, got array"),
    )
} | {
    f"fact {name} {value!r:.20}": Case(run(**{name: value}), REPORT, f"run/summary.json: {told}")
    for name, value, told in (
        ("budget", 10**20, "run.budget: expected int <= 9007199254740991"),
        ("eps", float("inf"), "JSON is malformed: invalid character{anything}"),
        ("eps", "=1+1", "run.eps: expected float, got str"),
        ("victim", ["x"], "run.victim: expected str, got array"),
        ("totals", [], "run.totals: expected object, got array"),
    )
}
RUNS |= {
    "summary nested without end": Case(
        run(lambda folder, canary: (folder / "summary.json").write_text("[" * 100_000)),
        REPORT,
        "run/summary.json: expected object, got array",
    ),
    "pickle as images": Case(
        run(file("images.safetensors", pickled(2))),
        REPORT,
        "run/images.safetensors holds no images of a run: expected clean, adversarial and ids, got: Error while "
        "deserializing header: header too large",
    ),
    "images that never come": Case(
        run(lambda folder, canary: os.mkfifo(folder / "images.safetensors")),
        REPORT,
        "cannot read the images run/images.safetensors: it is no regular file",
    ),
    "images of nothing": Case(
        run(lambda folder, canary: save_file(
            {"clean": torch.zeros(1, 3, 0, 4), "adversarial": torch.zeros(1, 3, 0, 4)},
            folder / "images.safetensors",
            {"ids": '["digits/test/0000"]'},
        )),
        REPORT,
        "run/images.safetensors: expected clean and adversarial of one shape (images, channels, height, width) and an "
        "id of the run for each image, got (1, 3, 0, 4) and (1, 3, 0, 4) with 1 ids",
    ),
    "configuration that is a file of the reader": Case(
        run(both(lambda folder, canary: (folder / "config.yaml").unlink(), link("config.yaml", "/etc/passwd"))),
        REPORT,
        f"run/config.yaml{LINK}",
    ),
    "run that would write over a file of the user": Case(
        stopped(more=link("summary.json", "../canary")), "test --resume run", f"run/summary.json{LINK}"
    ),
    "run with a tag": Case(
        stopped('attack: !!python/object/apply:os.system ["touch CANARY"]\n'),
        "test --resume run",
        f"cannot read the config run/config.yaml: {TAG}object/apply:os.system' in \"<unicode string>\", line 1, "
        "column 9: attack: !!python/object/apply:os.system ... ^",
    ),
    "run with aliases without end": Case(
        stopped(BOMB), "test --resume run", f"cannot read the config run/config.yaml: {TOO_MANY}"
    ),
    "run of a process": Case(
        stopped(f"attack: {POPEN}\n"), "test --resume run", of_python("attack", "subprocess.Popen")
    ),
    "run against a victim that ends Python": Case(
        stopped(parsed("--model.victim", "os.abort")), "test --resume run", f"'os.abort'{NO_VICTIM}"
    ),
    "run whose identity is nested without end": Case(
        stopped(parsed(), text("fingerprint.json", "[" * 100_000)),
        "test --resume run",
        "cannot resume run: run/fingerprint.json: expected object, got array",
    ),
}  # fmt: skip

CASES = WEIGHTS | CARDS | SETTINGS | NAMED | IMAGES | RUNS
