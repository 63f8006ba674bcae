import hashlib
import re
import textwrap

import pytest
import timm
import torch
from safetensors.torch import save_file

from rfdlight import _io
from rfdlight.errors import UserError
from rfdlight.victims.digest import weights_digest
from rfdlight.victims.resolve import load_victim, resolve_victim

NETS = """
    import functools

    import torch
    from torch import nn

    def my_net():
        torch.manual_seed(7)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))

    class MyNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 10)

        def forward(self, x):
            assert not self.training
            return self.head(x.mean((2, 3)))

    class Noisy(MyNet):
        def forward(self, x):
            return super().forward(x + torch.rand_like(x))

    class Arguments(nn.Module):
        def __init__(self, width): ...

    def wrong_size():
        return nn.Sequential(nn.Flatten(), nn.Linear(5, 10))

    def linear(classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, classes))

    bound = functools.partial(linear, classes=10)

    def five_classes():
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))

    def two_answers():
        class Two(nn.Module):
            def forward(self, x):
                return x, x
        return Two()

    def none(): ...

    instance = nn.Identity()
    number = 3
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """An importable module of the user's, of a name that no other test uses."""
    name = "nets_" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(NETS))
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.fixture
def shipped(tmp_path, card, monkeypatch):
    """A folder of shipped victims with resnet8-digits in it."""
    for suffix in (".json", ".safetensors"):
        (tmp_path / f"tiny{suffix}").rename(tmp_path / f"resnet8-digits{suffix}")
    monkeypatch.setattr(_io, "shipped_folder", lambda kind: tmp_path)


def fails(text, spec, checkpoint, data):
    with pytest.raises(UserError, match=f"^{text}$") as caught:
        resolve_victim(spec, checkpoint, data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", [None, "resnet8-digits"])
def test_a_shipped_victim_is_found_by_its_name_and_is_the_datas_default(shipped, digits, victim, card, spec):
    loaded = resolve_victim(spec, None, digits)
    x = digits.attacked().pixels.float() / 255
    with torch.no_grad():
        assert torch.equal(loaded.module(x), victim(x))
    assert not loaded.module.training
    assert loaded.card == card
    assert loaded.description == (
        f"resnet8-digits: resnet8 trained on digits, weights sha256 {card.sha256[:12]}, "
        "clean accuracy 12.19% (73 of 599)"
    )


def test_an_unknown_name_names_the_nearest(shipped, digits):
    fails(r"unknown victim 'resnet9-digits'; did you mean resnet8-digits\?", "resnet9-digits", None, digits)


def test_a_card_is_found_by_its_path(tmp_path, card, victim, digits):
    loaded = resolve_victim(f"{tmp_path}/tiny.json", None, digits)
    assert loaded.card == card
    assert loaded.description.startswith(f"{tmp_path}/tiny.json: resnet8 trained on digits, ")
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.module(x), victim(x))


def test_a_missing_card_is_named(tmp_path, digits):
    text = f"cannot read the victim card {tmp_path}/no.json: No such file or directory"
    fails(re.escape(text), f"{tmp_path}/no.json", None, digits)


def test_weights_in_the_place_of_a_card_are_refused(tmp_path, card, digits):
    spec = f"{tmp_path}/tiny.safetensors"
    fails(rf".*got '{re.escape(spec)}'; files of weights go to --model\.checkpoint", spec, None, digits)


def test_a_checkpoint_beside_a_card_is_refused(tmp_path, card, digits):
    spec = f"{tmp_path}/tiny.json"
    text = f"--model.checkpoint is for timm:NAME or an import path; the victim '{spec}' has weights of its own"
    fails(re.escape(text), spec, "other.safetensors", digits)


@pytest.mark.parametrize(
    ("constant", "value", "text"),
    [
        ("num_classes", 11, "digits has 11 and (3, 32, 32)"),
        ("shape", (1, 32, 32), "digits has 10 and (1, 32, 32)"),
        ("shape", (3, 16, 16), "digits has 10 and (3, 16, 16)"),
    ],
)
def test_a_card_for_other_data_is_refused(tmp_path, card, digits, monkeypatch, constant, value, text):
    if constant == "num_classes":
        monkeypatch.setattr(digits, constant, value, raising=False)
    else:
        images = digits.images("test")
        channels, height, width = value
        small = type(images)(images.pixels[:, :channels, :height, :width], images.labels, images.ids)
        monkeypatch.setattr(digits, "images", lambda split: small)
    spec = f"{tmp_path}/tiny.json"
    line = f"the victim '{spec}' is for 10 classes, images (3, 32, 32), the data {text}"
    fails(re.escape(line), spec, None, digits)


def test_a_timm_network_gets_the_datas_classes_statistics_and_the_checkpoint(tmp_path, digits):
    network = timm.create_model("resnet8", num_classes=10).eval()
    path = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), path)
    loaded = resolve_victim("timm:resnet8", str(path), digits)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.module(x), network((x - 0.3) / 0.35))
    assert loaded.card is None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.description == f"timm:resnet8 with {path}, weights sha256 {digest[:12]}, clean accuracy unknown"


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("classes", [7, 1000])
def test_a_timm_network_without_data_has_the_classes_of_its_checkpoint(tmp_path, name, classes):
    network = timm.create_model(name, num_classes=classes).eval()
    torch.save({"model": network.state_dict()}, tmp_path / "weights.pt")
    loaded = load_victim(f"timm:{name}", str(tmp_path / "weights.pt"))
    x = torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        assert torch.equal(loaded(x), network((x - 0.5) / 0.5))


def test_a_timm_network_needs_weights(digits):
    text = "'timm:resnet8' alone has random weights; give its file with --model.checkpoint"
    fails(text, "timm:resnet8", None, digits)


def test_an_unknown_timm_network_names_the_nearest(digits):
    fails(r"unknown network 'resnet88'; did you mean .*resnet8.*\?", "timm:resnet88", None, digits)


def test_a_checkpoint_that_does_not_fit_or_is_a_pickle_is_refused(tmp_path, digits):
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("resnet8", num_classes=3).state_dict(), path)
    text = (
        f"{path} has a head for 3 classes, the data has 10; to fine-tune it: "
        f"rfdlight fit --model.network resnet8 --model.checkpoint {path}"
    )
    fails(re.escape(text), "timm:resnet8", str(path), digits)
    torch.save({}, path)
    fails(rf"{re.escape(str(path))} is not a readable safetensors file: .+", "timm:resnet8", str(path), digits)
    fails(re.escape(f"no weights at {tmp_path}/no"), "timm:resnet8", f"{tmp_path}/no", digits)


def test_a_network_for_another_image_size_is_refused_in_one_line(tmp_path, digits):
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=10).state_dict(), path)
    spec = "timm:vit_tiny_patch16_224"
    fails(rf"the victim '{spec}' does not take images of 3 x 32 x 32: .+", spec, str(path), digits)


def test_a_function_of_the_users_keeps_its_weights_without_a_checkpoint(nets, digits):
    loaded = resolve_victim(f"{nets}.my_net", None, digits)
    torch.manual_seed(7)
    expected = torch.nn.Linear(3 * 32 * 32, 10)
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded.module(x), expected(x.flatten(1)))
    assert loaded.card is None
    digest = weights_digest(loaded.module)[:12]
    assert (
        loaded.description == f"{nets}.my_net with the weights that it makes, digest {digest}, clean accuracy unknown"
    )


def test_a_function_of_the_users_may_have_its_arguments_bound(nets, digits):
    loaded = resolve_victim(f"{nets}.bound", None, digits)
    assert isinstance(loaded.module, torch.nn.Module)
    digest = weights_digest(loaded.module)[:12]
    assert loaded.description == f"{nets}.bound with the weights that it makes, digest {digest}, clean accuracy unknown"


def test_a_class_of_the_users_gets_the_checkpoint(nets, tmp_path, digits):
    path = tmp_path / "weights.safetensors"
    weights = {"head.weight": torch.rand(10, 3), "head.bias": torch.rand(10)}
    save_file(weights, path)
    loaded = resolve_victim(f"{nets}.MyNet", str(path), digits)
    assert torch.equal(loaded.module.head.weight, weights["head.weight"])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.description == f"{nets}.MyNet with {path}, weights sha256 {digest[:12]}, clean accuracy unknown"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("MyNetz", "unknown name in the module {nets}: 'MyNetz'; did you mean my_net or MyNet?"),
        ("number", "'{nets}.number' must be a module, a class of modules or a function that makes a module"),
        (
            "Arguments",
            "'{nets}.Arguments' must need no arguments: missing a required argument: 'width'; wrap it in a function",
        ),
        ("none", "'{nets}.none' must make a torch.nn.Module, it made a NoneType"),
        (
            "five_classes",
            "the victim '{nets}.five_classes' must return logits of shape (2, 10) for 2 images, got float32 of "
            "shape (2, 5)",
        ),
        (
            "two_answers",
            "the victim '{nets}.two_answers' must return logits of shape (2, 10) for 2 images, got a tuple of "
            "float32 of shape (2, 3, 32, 32), float32 of shape (2, 3, 32, 32)",
        ),
    ],
)
def test_what_is_no_victim_is_refused(nets, digits, name, text):
    fails(re.escape(text.format(nets=nets)), f"{nets}.{name}", None, digits)


def test_a_victim_that_cannot_take_the_images_is_refused(nets, digits):
    text = rf"the victim '{nets}\.wrong_size' does not take images of 3 x 32 x 32: RuntimeError: mat1 and mat2 .+"
    fails(text, f"{nets}.wrong_size", None, digits)


def test_a_module_that_is_not_there_is_named(digits):
    text = "cannot import the victim 'no_such_module.net': No module named 'no_such_module'"
    fails(re.escape(text), "no_such_module.net", None, digits)


def test_resolving_draws_nothing_from_the_runs_random_numbers(nets, digits):
    resolve_victim(f"{nets}.Noisy", None, digits)  # the import and the weights draw, the check must not
    torch.manual_seed(0)
    expected = torch.nn.Linear(3, 10).weight, torch.rand(3)
    torch.manual_seed(0)
    loaded = resolve_victim(f"{nets}.Noisy", None, digits)
    assert torch.equal(loaded.module.head.weight, expected[0])
    assert torch.equal(torch.rand(3), expected[1])
