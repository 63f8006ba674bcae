import hashlib
import warnings
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from safetensors.torch import load_file
from torch.optim import SGD

from rfdlight.data.digits import Digits
from rfdlight.errors import UserError
from rfdlight.training.classifier import Classifier
from rfdlight.training.export import count_correct, export_victim
from rfdlight.victims.card import load_victim

STEPS = 30
HIGHEST = 0.1


class Record(Callback):
    """Keeps each step's loss and learning rate, and the weights after the last step."""

    def __init__(self):
        self.losses, self.rates, self.last = [], [], {}

    def on_train_batch_start(self, trainer, *_):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, module, outputs, *_):
        self.losses.append(float(outputs["loss"]))
        self.last = {key: value.clone() for key, value in module.victim.network.state_dict().items()}


def fit(steps=STEPS, batch_size=32):
    seed_everything(1, verbose=False)
    module = Classifier("resnet8", lambda parameters: SGD(parameters, lr=HIGHEST, momentum=0.9))
    record, data = Record(), Digits(batch_size=batch_size)
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[record],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning advises more loader workers
        trainer.fit(module, data)
    return module, data, record


@pytest.fixture(scope="module")
def fitted():
    return fit()


@pytest.fixture(scope="module")
def exported(fitted, tmp_path_factory):
    module, data, _ = fitted
    folder = tmp_path_factory.mktemp("run")
    return folder, export_victim(module, data, folder, "rfdlight fit --data digits", seed=1, seconds=7.4)


def test_a_few_steps_lower_the_loss(fitted):
    losses = fitted[2].losses
    assert len(losses) == STEPS
    # Ten equal classes cost ln 10 = 2.30 when nothing is known. A mean over 320 images whose losses
    # have a standard deviation of 0.5 is known to 0.03.
    assert 2 < losses[0] < 4
    assert sum(losses[-10:]) / 10 < 2.30 - 0.1


def test_the_learning_rate_rises_linearly_and_falls_linearly_to_nearly_zero(fitted):
    rates = fitted[2].rates
    peak = rates.index(max(rates))
    assert peak == STEPS // 5 - 1
    assert max(rates) == pytest.approx(HIGHEST)
    assert 0 < rates[0] < HIGHEST / 10
    assert 0 < rates[-1] < HIGHEST / 1000
    rises = torch.tensor(rates[: peak + 1]).diff()
    falls = torch.tensor(rates[peak:]).diff()
    assert torch.allclose(rises, rises.mean(), rtol=1e-4)
    assert torch.allclose(falls, falls.mean(), rtol=1e-4)
    assert rises[0] > 0 > falls[0]


def test_the_victim_is_built_for_the_data(fitted):
    victim = fitted[0].victim
    assert victim.network.fc.out_features == 10
    assert victim.mean.flatten().tolist() == pytest.approx(Digits.mean)
    assert victim.std.flatten().tolist() == pytest.approx(Digits.std)


def test_the_exported_weights_are_those_of_the_last_step(fitted, exported):
    last, stored = fitted[2].last, load_file(exported[0] / "victim.safetensors")
    assert stored.keys() == last.keys()
    assert all(torch.equal(stored[key], last[key]) for key in last)
    assert int(stored["bn1.num_batches_tracked"]) == STEPS


def test_the_card_is_what_a_reader_of_the_files_finds(exported):
    folder, card = exported
    victim, read = load_victim(folder / "victim.json")
    assert read == card
    victim.eval()
    test = Digits().images("test")
    with torch.no_grad():
        x = test.pixels.float() / 255
        answers = torch.cat([victim(part).argmax(1) for part in x.split(100)])
    right = int((answers == test.labels).sum())
    assert (card.clean_correct, card.clean_total) == (right, 599)
    assert card.clean_accuracy == right / 599 > 0.15
    assert card.clean_interval[0] < card.clean_accuracy < card.clean_interval[1]
    assert card.sha256 == hashlib.sha256((folder / "victim.safetensors").read_bytes()).hexdigest()
    assert (card.network, card.num_classes, card.image_shape, card.data) == ("resnet8", 10, (3, 32, 32), "digits")
    assert (card.command, card.seed) == ("rfdlight fit --data digits", 1)
    assert card.parameters == sum(p.numel() for p in victim.network.parameters())
    assert set(card.versions) == {"rfdlight", "torch", "lightning", "timm"}


def test_the_count_of_right_answers_does_not_depend_on_the_batches(exported):
    victim, _ = load_victim(exported[0] / "victim.json")
    images = Digits().images("test").take(list(range(60)))
    counts = {count_correct(victim.eval(), images, size) for size in (7, 60)}
    ((correct, answered),) = counts
    assert 0 < correct < answered == 60


def test_a_seed_repeats_a_training():
    first, second = fit(steps=2, batch_size=8), fit(steps=2, batch_size=8)
    assert first[2].losses == second[2].losses
    assert all(torch.equal(first[2].last[key], second[2].last[key]) for key in first[2].last)


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 6, 10])
def test_the_shortest_trainings_have_a_schedule(steps):
    # With a warm-up of 0.2 the rise of 5 steps is exactly one step long.
    module = Classifier("resnet8", lambda parameters: SGD(parameters, lr=HIGHEST))
    module.victim = torch.nn.Linear(1, 1)
    module._trainer = SimpleNamespace(estimated_stepping_batches=steps)
    chosen = module.configure_optimizers()
    for _ in range(steps):
        assert 0 < chosen["optimizer"].param_groups[0]["lr"] <= HIGHEST
        chosen["optimizer"].step()
        chosen["lr_scheduler"]["scheduler"].step()


def test_a_training_without_an_end_is_refused():
    module = Classifier("resnet8")
    module._trainer = SimpleNamespace(estimated_stepping_batches=float("inf"))
    text = "^the learning rate falls until the end; give --trainer.max_epochs or --trainer.max_steps$"
    with pytest.raises(UserError, match=text):
        module.configure_optimizers()


def test_an_unknown_network_names_the_nearest_in_one_short_line():
    with pytest.raises(UserError, match=r"^unknown network 'resnet2O'; did you mean .*\?$"):
        Classifier("resnet2O")
    with pytest.raises(UserError, match=r"^unknown network '§'; known: .{1,800}$"):
        Classifier("§")


@pytest.mark.parametrize("warmup", [0, 1, float("nan")])
def test_a_warmup_outside_its_range_is_refused(warmup):
    with pytest.raises(UserError, match=rf"^model.warmup must lie in \(0, 1\), got {warmup}$"):
        Classifier("resnet8", warmup=warmup)
