"""The shipped victims are what their cards and the docs say of them."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from harness import others_slow
from pixels import NEEDS_PIXELS, ROOT
from scipy.stats import hypergeom

from rfdlight import _io
from rfdlight.data import CIFAR10, Digits
from rfdlight.training import FGSMAdversary
from rfdlight.training.export import count_correct, pgd10
from rfdlight.victims.card import load_victim, read_card

CARDS = {path.stem: path for path in sorted(_io.shipped_folder("checkpoints").glob("*.json"))}
ON_CIFAR10 = [name for name, path in CARDS.items() if read_card(path).data == "cifar10"]


def cifar10(name):
    return pytest.param(name, marks=NEEDS_PIXELS)


@pytest.mark.parametrize("name", CARDS)
def test_the_files_are_small_and_the_card_names_a_config_of_ours(name):
    card = read_card(CARDS[name])
    assert sum(path.stat().st_size for path in CARDS[name].parent.glob(f"{name}.*")) <= 12e6
    config = re.match(r"rfdlight fit -c (\S+) .*--run runs/", card.command)
    assert config
    assert _io.find_shipped("configs", config[1], ".yaml").is_file()


@pytest.mark.parametrize("name", others_slow([cifar10(name) for name in ON_CIFAR10], 0))
def test_some_test_images_agree_with_the_cards_count(name):
    victim, card = load_victim(CARDS[name])
    correct, _ = count_correct(victim, CIFAR10(ROOT, num_images=200).attacked())
    # Two hundred of those ten thousand that the card counts: outside of these bounds once in a million.
    low, high = hypergeom.interval(1 - 1e-6, card.clean_total, card.clean_correct, 200)
    assert low <= correct <= high


def test_all_test_digits_agree_with_the_cards_count():
    victim, card = load_victim(CARDS["resnet8-digits"])
    assert abs(count_correct(victim, Digits().images("test"))[0] - card.clean_correct) <= 1  # rounding


@pytest.mark.slow
@pytest.mark.parametrize("name", [cifar10(name) for name in ON_CIFAR10])
def test_the_whole_test_set_gives_the_cards_count(name):
    victim, card = load_victim(CARDS[name])
    assert abs(count_correct(victim, CIFAR10(ROOT).images("test"))[0] - card.clean_correct) <= 3  # rounding


@pytest.mark.slow
@pytest.mark.parametrize("name", [cifar10("resnet20-at-cifar10")])
def test_pgd10_gives_the_cards_count(name):
    victim, card = load_victim(CARDS[name])
    module = SimpleNamespace(victim=victim, adversary=FGSMAdversary(eps=card.pgd10_eps))
    counted = pgd10(module, CIFAR10(ROOT))
    assert counted["pgd10_total"] == card.pgd10_total == 1000
    assert abs(counted["pgd10_correct"] - card.pgd10_correct) <= 3  # rounding


@pytest.mark.parametrize("name", CARDS)
def test_the_docs_say_what_the_card_says(name):
    card = read_card(CARDS[name])
    page = (Path(__file__).parents[2] / "docs/reference/victims-and-data.md").read_text()
    (row,) = re.findall(rf"^\| `{name}` \| .*$", page, re.MULTILINE)
    low, high = card.clean_interval
    for shown in (
        f"`{card.network}`",
        f"{card.parameters:,}",
        f"{card.clean_accuracy:.2%} ({100 * low:.2f} to {100 * high:.2f})".replace("%", " %"),
        f"`{re.search('-c ([^ ]+)', card.command)[1]}`",
    ):
        assert f"| {shown} |" in row
    if card.train_seconds is not None:
        assert f"| {card.train_seconds / 60:.0f} min |" in row
