"""Files of weights that users bring."""

import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from rfdlight.errors import UserError
from rfdlight.victims.networks import create_network, pretrained_settings
from rfdlight.victims.weight_files import read_checkpoint
from rfdlight.victims.weights import classes_stored, fit_weights, head_names, load_checkpoint, start_from


@pytest.fixture
def network():
    torch.manual_seed(1)
    return create_network("resnet8", num_classes=10)


def says(line, call):
    with pytest.raises(UserError) as caught:
        call()
    assert str(caught.value) == line


def same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("ours", ["", "network.", "model."])
@pytest.mark.parametrize("theirs", ["", "network.", "module.network.", "victim.network."])
@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_what_wrappers_put_before_the_names_is_no_matter_on_either_side(tmp_path, network, ours, theirs, form):
    stored = {f"{theirs}{key}": value for key, value in network.state_dict().items()}
    path = tmp_path / "weights"
    torch.save(stored, path) if form == "torch" else save_file(stored, path)
    made = create_network("resnet8", num_classes=10)
    wrapped = torch.nn.ModuleDict({ours[:-1]: made}) if ours else made
    load_checkpoint(wrapped, path, "own")
    same(made.state_dict(), network.state_dict())


def test_a_head_without_dimensions_is_named(network):
    tensors = {**network.state_dict(), "fc.bias": torch.tensor(0.0)}
    says(
        "w.pth does not fit the network 'resnet8': fc.bias has the shape (), expected (10,)",
        lambda: fit_weights(network, tensors, Path("w.pth"), "resnet8"),
    )


def other_weights():
    return create_network("resnet8", num_classes=10).state_dict()


PLACES = {
    "net": (lambda state: {"net": {f"module.{name}": tensor for name, tensor in state.items()}, "acc": 95.1}, ""),
    "a list": (lambda state: [state, {"momentum": torch.ones(3)}], ""),
    "old batch norm": (lambda state: {name: t for name, t in state.items() if "num_batches_tracked" not in name}, ""),
    "averaged": (lambda state: {"state_dict": other_weights(), "state_dict_ema": state}, "'state_dict_ema', which is"),
    "usual key": (lambda state: {"best": other_weights(), "model": state}, "'model'; others that fit: 'best'"),
}


@pytest.mark.parametrize("place", PLACES)
def test_weights_are_found_where_scripts_keep_them(tmp_path, network, place):
    make, words = PLACES[place]
    path, into = tmp_path / "weights.pth", create_network("resnet8", num_classes=10)
    torch.save(make(network.state_dict()), path)
    _, note = load_checkpoint(into, path, "resnet8")
    assert words in note
    assert bool(words) == bool(note)
    same({name: t for name, t in into.state_dict().items() if "num_b" not in name},
         {name: t for name, t in network.state_dict().items() if "num_b" not in name})  # fmt: skip


def test_a_part_of_a_checkpoint_is_chosen_by_its_name_and_none_is_guessed(tmp_path, network):
    path, into = tmp_path / "weights.pth", create_network("resnet8", num_classes=10)
    torch.save({"teacher": other_weights(), "student": network.state_dict()}, path)
    with pytest.raises(UserError, match=r"several sets of weights that fit: .*weights\.pth#(student|teacher)"):
        load_checkpoint(into, path, "resnet8")
    with pytest.raises(UserError, match="did you mean student"):
        load_checkpoint(into, Path(f"{path}#studen"), "resnet8")
    load_checkpoint(into, Path(f"{path}#student"), "resnet8")
    same(into.state_dict(), network.state_dict())


class Runs:
    """Code in a pickle: reading it writes a file."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return Path.write_text, (self.canary, "ran")


@pytest.mark.parametrize("form", ["pickle", "zip", "legacy", "nested"])
def test_a_checkpoint_with_code_is_refused_and_nothing_runs(tmp_path, network, form):
    path, canary = tmp_path / "weights.pth", tmp_path / "canary"
    content = {"state_dict": network.state_dict(), "args": Runs(canary)} if form == "nested" else Runs(canary)
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form != "legacy")
    with pytest.raises(UserError, match=r"weights\.pth cannot be read as tensors without running code: .*state dict"):
        read_checkpoint(path)
    assert not canary.exists()
    pickle.loads(pickle.dumps(Runs(canary)))
    assert canary.exists(), "the code in the file would not have run anyway"


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_file_that_was_cut_off_is_one_line(tmp_path, network, kept, form):
    path = tmp_path / "weights.pth"
    if form == "safetensors":
        save_file(network.state_dict(), path)
    else:
        torch.save(network.state_dict(), path, _use_new_zipfile_serialization=form == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [[1, 2], {}, {"epoch": 3}, 5, None, "text", {"optimizer": {"param_groups": [{"lr": 0.1}]}}]
)
def test_content_without_tensors_is_refused(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    says(f"{path} holds no tensors; expected a state dict, tensors by name", lambda: read_checkpoint(path))


def test_another_architecture_is_named_by_what_is_missing_and_what_is_left_over(tmp_path, network):
    other = timm.create_model("vgg19_bn_thin").state_dict()
    with pytest.raises(UserError) as caught:
        fit_weights(network, other, Path("w.pth"), "resnet8")
    lacks, has = network.state_dict().keys() - other.keys(), other.keys() - network.state_dict().keys()
    assert str(caught.value) == (
        f"w.pth does not fit the network 'resnet8': it lacks {len(lacks)} needed tensors, the first is {min(lacks)}; "
        f"it has {len(has)} other tensors, the first is {min(has)}"
    )


@pytest.mark.parametrize(
    "name", ["resnet8", "vgg19_bn_thin", "vit_thin_patch4_32", "resnet18", "vgg11", "deit_tiny_patch16_224"]
)
def test_the_head_is_the_last_layer(name):
    with torch.device("meta"):
        network = create_network(name, num_classes=7)
    heads = head_names(network)
    assert {len(network.state_dict()[key]) for key in heads} == {7}
    assert {key.rpartition(".")[2] for key in heads} == {"weight", "bias"}


def test_fine_tuning_starts_from_all_but_a_head_of_another_size(tmp_path, network):
    theirs = create_network("resnet8", num_classes=3).state_dict()
    path, before = tmp_path / "weights.pth", {key: value.clone() for key, value in network.state_dict().items()}
    torch.save({**theirs, "aux.weight": torch.zeros(1)}, path)
    line = start_from(network, path, "resnet8")
    after = network.state_dict()
    assert all(torch.equal(after[key], theirs[key]) for key in after if not key.startswith("fc."))
    assert all(torch.equal(after[key], before[key]) for key in after if key.startswith("fc."))
    assert f"{len(theirs) - 2} tensors loaded, 2 of a new head: fc.bias, fc.weight, 1 unexpected: aux.weight" in line


def test_fine_tuning_takes_the_head_too_where_it_fits(tmp_path, network):
    theirs = create_network("resnet8", num_classes=10).state_dict()
    path = tmp_path / "weights.safetensors"
    save_file(theirs, path)
    assert "0 missing" in start_from(network, path, "resnet8")
    same(network.state_dict(), theirs)


def test_fine_tuning_does_not_start_half_at_random(tmp_path, network):
    theirs = dict(create_network("resnet8", num_classes=10).state_dict())
    del theirs["layer2.0.conv1.weight"]
    path = tmp_path / "weights.safetensors"
    save_file(theirs, path)
    says(
        f"{path} does not fit the network 'resnet8': it lacks 1 needed tensors, the first is layer2.0.conv1.weight",
        lambda: start_from(network, path, "resnet8"),
    )


def test_pretrained_weights_that_cannot_be_fetched_say_what_to_do(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    says(
        "cannot fetch the pretrained weights of 'resnet50': no route to host; offline, download them elsewhere and "
        "give their file as the checkpoint, in `rfdlight fit` with --model.pretrained false",
        lambda: create_network("resnet50", pretrained=True),
    )


@pytest.mark.parametrize("name", ["vgg19_bn", "resnet50", "vit_base_patch16_224", "deit_base_patch16_224"])
def test_the_papers_networks_have_settings_of_their_own(name):
    settings = pretrained_settings(name)
    assert settings is not None
    assert settings.num_classes == 1000
    assert settings.preparation.size == 224


def test_networks_that_timm_shows_squashed_images_are_shown_them_here():
    modes = {name: pretrained_settings(name).preparation.crop_mode for name in ("resnet50", "coat_lite_medium_384")}
    assert modes == {"resnet50": "center", "coat_lite_medium_384": "squash"}


def test_our_networks_have_none():
    assert pretrained_settings("resnet20") is None


def test_the_number_of_classes_is_that_of_the_last_layer_of_the_file(tmp_path):
    network = create_network("resnet8", num_classes=10)
    save_file(create_network("resnet8", num_classes=3).state_dict(), tmp_path / "three.safetensors")
    assert classes_stored(network, tmp_path / "three.safetensors") == 3
    network.default_cfg = {"classifier": ("layer1", "fc")}  # layers of other sizes count to the last one
    assert classes_stored(network, tmp_path / "three.safetensors") is None
