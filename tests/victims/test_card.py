import hashlib
import json
import pickle
import re

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from rfdlight.core.statistics import wilson
from rfdlight.errors import UserError
from rfdlight.victims import Victim
from rfdlight.victims import card as cards
from rfdlight.victims.card import load_victim, read_card, save_victim


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.canary),)


def change_card(folder, **facts):
    path = folder / "tiny.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def rehash(folder):
    """Make the card vouch for whatever lies beside it."""
    change_card(folder, sha256=hashlib.sha256((folder / "tiny.safetensors").read_bytes()).hexdigest())


def replace_weights(folder, tensors):
    """Put other weights beside the card, and make it vouch for them."""
    path = folder / "tiny.safetensors"
    save_file(tensors, path)
    rehash(folder)
    return path


def fails(folder, text):
    with pytest.raises(UserError, match=f"^{text}$") as caught:
        load_victim(folder / "tiny.json")
    assert "\n" not in str(caught.value)


def test_a_round_trip_gives_bit_identical_logits_and_the_same_card(tmp_path, victim, card):
    loaded, read = load_victim(tmp_path / "tiny.json")
    assert read == card
    x = torch.rand(5, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(x), victim(x))


def test_the_card_says_what_follows_from_the_weights_and_the_counts(tmp_path, victim, card):
    assert card.clean_accuracy == 73 / 599
    assert card.clean_interval == wilson(73, 599)
    assert card.sha256 == hashlib.sha256((tmp_path / "tiny.safetensors").read_bytes()).hexdigest()
    assert card.parameters == sum(p.numel() for p in victim.network.parameters())
    assert (card.mean, card.std) == ((0.3, 0.3, 0.3), (0.35, 0.35, 0.35))


def test_channels_last_weights_are_stored_plain(tmp_path, victim, card):
    assert all(tensor.is_contiguous() for tensor in load_file(tmp_path / "tiny.safetensors").values())


@pytest.mark.parametrize("length", [0, 4, 500, -1])
def test_truncated_weights_are_refused(tmp_path, card, length):
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    rehash(tmp_path)
    fails(tmp_path, f"{re.escape(str(path))} is (empty; |not a readable safetensors file: ).+")


@pytest.mark.parametrize("form", ["zip", "legacy", "protocol 0", "protocol 5"])
def test_a_pickle_under_the_name_of_safetensors_is_refused_and_runs_no_code(tmp_path, card, form):
    path, canary = tmp_path / "tiny.safetensors", tmp_path / "canary"
    if form in ("zip", "legacy"):
        torch.save({"conv1.weight": Bomb(canary)}, path, _use_new_zipfile_serialization=form == "zip")
    else:
        path.write_bytes(pickle.dumps(Bomb(canary), protocol=int(form[-1])))
    rehash(tmp_path)
    fails(tmp_path, rf"{re.escape(str(path))} is not a readable safetensors file: .+")
    assert not canary.exists()
    if form != "zip":
        with path.open("rb") as file:  # the proof that the file would have done it
            while not canary.exists():
                pickle.load(file)


def test_other_weights_than_the_cards_are_refused(tmp_path, card):
    path = tmp_path / "tiny.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    found = hashlib.sha256(content).hexdigest()
    text = f"{path} is not the file its card describes: expected sha256 {card.sha256[:16]}..., got {found[:16]}..."
    fails(tmp_path, re.escape(text))


def test_a_wrong_hash_on_the_card_is_refused(tmp_path, card):
    change_card(tmp_path, sha256="0" * 64)
    path = tmp_path / "tiny.safetensors"
    text = f"{path} is not the file its card describes: expected sha256 {'0' * 16}..., got {card.sha256[:16]}..."
    fails(tmp_path, re.escape(text))


def test_weights_of_a_deeper_network_are_refused(tmp_path, card):
    path = replace_weights(tmp_path, timm.create_model("resnet20", num_classes=10).state_dict())
    text = f"{path} does not fit the network 'resnet8': it has 72 other tensors, the first is layer1.1.bn1.bias"
    fails(tmp_path, re.escape(text))


def test_weights_that_lack_tensors_are_refused(tmp_path, card):
    tensors = load_file(tmp_path / "tiny.safetensors")
    path = replace_weights(tmp_path, {key: value for key, value in tensors.items() if not key.startswith("fc")})
    text = f"{path} does not fit the network 'resnet8': it lacks 2 needed tensors, the first is fc.bias"
    fails(tmp_path, re.escape(text))


def test_another_head_is_refused(tmp_path, card):
    path = replace_weights(tmp_path, timm.create_model("resnet8", num_classes=7).state_dict())
    text = (
        f"{path} has a head for 7 classes, the data has 10; to fine-tune it: "
        f"rfdlight fit --model.network resnet8 --model.checkpoint {path}"
    )
    fails(tmp_path, re.escape(text))


def test_a_card_with_another_network_is_refused(tmp_path, card):
    change_card(tmp_path, network="resnet20")
    path = tmp_path / "tiny.safetensors"
    text = f"{path} does not fit the network 'resnet20': it lacks 72 needed tensors, the first is layer1.1.bn1.bias"
    fails(tmp_path, re.escape(text))


def test_a_network_that_does_not_fit_never_takes_memory(tmp_path, card, monkeypatch):
    devices, create = [], cards.create_network

    def recorded(*args, **options):
        devices.append(torch.get_default_device().type)
        return create(*args, **options)

    monkeypatch.setattr(cards, "create_network", recorded)
    change_card(tmp_path, network="resnet20")
    fails(tmp_path, ".* does not fit the network 'resnet20': .*")
    assert devices == ["meta"]


@pytest.mark.parametrize("network", ["resnet21", "hf-hub:someone/net", "local-dir:/net"])
def test_a_card_with_an_unknown_network_is_refused(tmp_path, card, network):
    change_card(tmp_path, network=network)
    text = f"the card {tmp_path}/tiny.json names the network '{network}', which timm does not have"
    fails(tmp_path, re.escape(text))


def test_missing_weights_are_named(tmp_path, card):
    (tmp_path / "tiny.safetensors").unlink()
    fails(tmp_path, re.escape(f"no weights at {tmp_path}/tiny.safetensors"))


def test_a_folder_in_the_place_of_weights_is_named(tmp_path, card):
    (tmp_path / "tiny.safetensors").unlink()
    (tmp_path / "tiny.safetensors").mkdir()
    fails(tmp_path, re.escape(f"cannot read the weights {tmp_path}/tiny.safetensors: Is a directory"))


def test_a_missing_card_is_named(tmp_path):
    fails(tmp_path, re.escape(f"cannot read the victim card {tmp_path}/tiny.json: No such file or directory"))


@pytest.mark.parametrize("content", ["", "[1]", "3", '{"network": "resnet8"}', "{", "\xff\xfe", '{"other": 1}'])
def test_what_is_no_card_is_refused(tmp_path, content):
    (tmp_path / "tiny.json").write_text(content, encoding="latin1")
    with pytest.raises(UserError, match=r"tiny\.json is no victim card: .+"):
        read_card(tmp_path / "tiny.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("network", 8),
        ("num_classes", "10"),
        ("num_classes", 0),
        ("image_shape", [3, 32]),
        ("image_shape", [3, 32, -32]),
        ("mean", [0.3]),
        ("mean", ["a", "b", "c"]),
        ("mean", [123.7, 116.3, 103.5]),
        ("std", [0.3, 0.3, 0]),
        ("std", [58.4, 57.1, 57.4]),
        ("std", 0.3),
        ("sha256", None),
    ],
)
def test_a_field_that_describes_no_network_is_named(tmp_path, card, field, value):
    change_card(tmp_path, **{field: value})
    fails(tmp_path, rf"{re.escape(str(tmp_path))}/tiny\.json is no victim card: .*{field}.*")


def test_the_options_that_a_network_was_built_with_come_back(tmp_path, victim):
    torch.manual_seed(0)
    made = Victim(timm.create_model("resnet18", num_classes=10, global_pool="max"), victim.mean, victim.std).eval()
    facts = {"num_classes": 10, "image_shape": (3, 32, 32), "data": "digits", "command": "rfdlight fit", "seed": 0}
    options = {"network": "resnet18", "network_options": {"global_pool": "max"}}
    save_victim(made, tmp_path / "max.json", **facts, **options, clean_correct=1, clean_total=2, versions={})
    loaded, card = load_victim(tmp_path / "max.json")
    x = torch.rand(5, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x), made(x))
    assert card.network_options == {"global_pool": "max"}


@pytest.mark.parametrize(
    "options", [{"checkpoint_path": "x.pth"}, {"pretrained": True}, {"num_classes": 3}, {"depth": {}}, [], "x"]
)
def test_options_that_would_fetch_other_weights_are_no_options(tmp_path, card, options):
    change_card(tmp_path, network_options=options)
    fails(tmp_path, re.escape(f"{tmp_path}/tiny.json is no victim card: ") + ".*network_options.*")


def test_options_that_the_network_refuses_are_told(tmp_path, card):
    change_card(tmp_path, network_options={"depth": 3})
    fails(
        tmp_path, re.escape(f"the card {tmp_path}/tiny.json has options that 'resnet8' does not take: ") + ".*depth.*"
    )
