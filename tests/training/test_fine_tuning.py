"""Training from given weights, with held-out images, averages, adversaries and noise."""

import warnings

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from safetensors.torch import save_file
from torch.optim import SGD, AdamW

from rfdlight.attacks.pgd import PGD
from rfdlight.data.digits import Digits
from rfdlight.data.loaders import loader
from rfdlight.defenses import InputNoise
from rfdlight.errors import UserError
from rfdlight.training import FGSMAdversary
from rfdlight.training.adversary import attacked
from rfdlight.training.classifier import Classifier
from rfdlight.training.export import export_victim, pgd10, take_best_weights
from rfdlight.victims.networks import create_network


def sgd(parameters):
    return SGD(parameters, lr=0.1, momentum=0.9)


def fit(folder, epochs=1, data=None, callbacks=(), ckpt_path=None, steps=-1, limit=4, **options):
    seed_everything(2, verbose=False)
    options.setdefault("optimizer", sgd)
    module, data = Classifier("resnet8", **options), data or Digits(batch_size=16)
    trainer = Trainer(
        max_epochs=epochs,
        max_steps=steps,
        limit_train_batches=limit,
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        callbacks=list(callbacks),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning advises more loader workers
        trainer.fit(module, data, ckpt_path=ckpt_path)
    return module, trainer, data


def weights(module):
    return {key: value.clone() for key, value in module.victim.network.state_dict().items()}


def equal(first, second):
    return all(torch.equal(first[key], second[key]) for key in first)


def test_a_training_can_start_from_weights_with_another_head(tmp_path, capsys):
    theirs = create_network("resnet8", num_classes=3).state_dict()
    path = tmp_path / "theirs.safetensors"
    save_file(theirs, path)
    module, _, _ = fit(tmp_path, steps=1, checkpoint=str(path), optimizer=lambda p: SGD(p, lr=1e-12))
    ours = module.victim.network.state_dict()
    for key in ("conv1.weight", "layer3.0.conv1.weight"):
        torch.testing.assert_close(ours[key], theirs[key])
    assert ours["fc.weight"].shape == (10, 64)
    assert "2 of a new head: fc.bias, fc.weight" in capsys.readouterr().err


def test_layer_decay_lowers_the_rate_away_from_the_head_and_spares_vectors_of_decay(tmp_path):
    seen = {}

    class Look(Callback):
        def on_train_start(self, trainer, module):
            (optimizer,) = trainer.optimizers
            names = {parameter: name for name, parameter in module.victim.network.named_parameters()}
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    seen[names[parameter]] = (group["initial_lr"], group["weight_decay"], parameter.ndim)

    seed_everything(2, verbose=False)
    module = Classifier(
        "vit_thin_patch4_32", lambda p: AdamW(p, lr=1e-3, weight_decay=0.05), layer_decay=0.5, warmup=0.5
    )
    trainer = Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Look()],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, Digits(batch_size=4))
    rate = {name: values[0] for name, values in seen.items()}
    last = rate["head.weight"]
    for block in range(5):
        # Five blocks, then the head: each step away halves the rate.
        assert rate[f"blocks.{block}.attn.qkv.weight"] == pytest.approx(last * 0.5 ** (5 - block))
    assert rate["patch_embed.proj.weight"] == pytest.approx(last * 0.5**6)
    assert {decay for _, decay, ndim in seen.values() if ndim == 1} == {0.0}
    assert {decay for name, (_, decay, ndim) in seen.items() if ndim > 1 and name != "pos_embed"} == {0.05}


def test_layer_decay_needs_an_order_of_layers(tmp_path):
    with pytest.raises(UserError) as caught:
        fit(tmp_path, layer_decay=0.5)
    assert str(caught.value) == (
        "model.layer_decay needs a network whose layers timm has put in order, 'resnet8' is none"
    )


@pytest.mark.slow
def test_the_weights_of_the_best_epoch_are_taken_where_one_is_monitored(tmp_path):
    class Score(Callback):
        def on_validation_epoch_end(self, trainer, module):
            module.log("score", (0.1, 0.9, 0.2)[trainer.current_epoch])

    saver = ModelCheckpoint(tmp_path / "best", monitor="score", mode="max")
    data = Digits(batch_size=16, validation=20)
    module, trainer, _ = fit(tmp_path, epochs=3, data=data, callbacks=[Score(), saver])
    assert "epoch=1" in saver.best_model_path
    best = torch.load(saver.best_model_path, weights_only=False)["state_dict"]
    last, saver.monitor = weights(module), None
    take_best_weights(trainer, module)
    assert equal(last, weights(module)), "without a monitor the last weights stay"
    saver.monitor = "score"
    take_best_weights(trainer, module)
    found = weights(module)
    assert not equal(last, found)
    assert equal(found, {key.removeprefix("victim.network."): v for key, v in best.items() if "network." in key})


@pytest.mark.slow
def test_early_stopping_looks_at_held_out_images(tmp_path):
    stopper = EarlyStopping("val_accuracy", mode="max", patience=1, min_delta=2.0)
    _, trainer, _ = fit(tmp_path, epochs=9, data=Digits(batch_size=16, validation=50), callbacks=[stopper])
    assert trainer.current_epoch == 2


def test_moving_averages_are_what_is_trained(tmp_path):
    kept = []

    class Keep(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            kept.append(weights(module))

    module, _, _ = fit(tmp_path, steps=4, callbacks=[EMAWeightAveraging(decay=0.5), Keep()])
    average = kept[0]["conv1.weight"]
    for step in kept[1:]:
        average = 0.5 * average + 0.5 * step["conv1.weight"]
    torch.testing.assert_close(weights(module)["conv1.weight"], average)
    assert not torch.equal(average, kept[-1]["conv1.weight"])


def test_a_training_that_was_cut_off_goes_on_to_the_end_of_its_schedule(tmp_path):
    class CutOff(Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.should_stop = trainer.current_epoch == 0

    saver = ModelCheckpoint(tmp_path / "first", save_last=True)
    _, first, _ = fit(tmp_path, epochs=3, callbacks=[CutOff(), saver])
    steps = first.global_step
    rates = []

    class Rates(Callback):
        def on_train_batch_start(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    _, again, _ = fit(tmp_path, epochs=3, callbacks=[Rates()], ckpt_path=saver.last_model_path)
    assert again.global_step == 3 * steps
    assert len(rates) == 2 * steps
    assert rates[0] > rates[-1]
    assert rates[-1] < 0.1 * rates[0]


def test_label_smoothing_and_mixup_change_the_loss_and_mixup_mixes_labels(tmp_path):
    class Losses(Callback):
        def __init__(self):
            self.first = None

        def on_train_batch_end(self, trainer, module, outputs, *_):
            self.first = self.first or float(outputs["loss"])

    found = {}
    for name, options in (("plain", {}), ("smooth", {"label_smoothing": 0.5}), ("mixed", {"mixup": 1.0})):
        record = Losses()
        fit(tmp_path, steps=1, callbacks=[record], **options)
        found[name] = record.first
    assert len(set(found.values())) == 3


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"label_smoothing": 1.0}, "model.label_smoothing must lie in [0, 1), got 1.0"),
        ({"mixup": -0.1}, "model.mixup must be at least 0, got -0.1"),
        ({"layer_decay": 0.0}, "model.layer_decay must lie in (0, 1], got 0.0"),
        (
            {"mixup": 0.1, "adversary": FGSMAdversary()},
            "model.mixup mixes labels, which model.adversary needs whole: give one of the two",
        ),
        (
            {"pretrained": True, "checkpoint": "w.pth"},
            "model.pretrained and model.checkpoint both name the first weights: give one of the two",
        ),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, line):
    with pytest.raises(UserError) as caught:
        Classifier("resnet8", **options)
    assert str(caught.value) == line


class Logged(Callback):
    def __init__(self):
        self.last = {}

    def on_train_epoch_end(self, trainer, module):
        self.last = {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.slow
def test_adversarial_training_hardens(tmp_path):
    robust = {}
    for name, adversary in (("clean", None), ("fgsm", FGSMAdversary(eps=0.05))):
        module, _, data = fit(tmp_path, epochs=8, adversary=adversary, limit=None)
        module.victim.eval()
        x, y, _ = next(iter(loader(data.images("test"), 400)))
        points = attacked(module.victim, PGD(eps=0.05), x, y)
        with torch.no_grad():
            robust[name] = float((module.victim(points).argmax(1) == y).float().mean())
    # Of 400 images: three standard errors of a difference are at most 0.11.
    assert robust["fgsm"] > robust["clean"] + 0.11


def test_adversarial_training_is_logged_and_counted_on_the_card(tmp_path):
    adversary, plain, watched = FGSMAdversary(eps=0.05), Logged(), Logged()
    fit(tmp_path, steps=2, data=Digits(batch_size=16, validation=5), callbacks=[plain])
    data = Digits(batch_size=16, validation=5, num_images=10)
    module, _, data = fit(tmp_path, data=data, limit=2, adversary=adversary, callbacks=[watched])
    usual = {"val_loss", "val_accuracy", "train_loss", "train_accuracy"}
    assert usual <= watched.last.keys()
    assert {"val_fgsm_accuracy", "val_pgd_accuracy", "catastrophic_overfitting"} <= watched.last.keys()
    assert "val_pgd_accuracy" not in plain.last
    card = export_victim(module, data, tmp_path, "rfdlight fit", seed=0, seconds=12.6)
    assert card.pgd10_correct == pgd10(module, data)["pgd10_correct"]
    assert (card.pgd10_total, card.pgd10_eps, card.train_seconds) == (10, 0.05, 13)


def test_noise_is_part_of_the_training_and_not_of_the_victim(tmp_path):
    class Same(Callback):
        def __init__(self):
            self.equal = []

        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            with torch.no_grad():
                module.eval()
                self.equal.append(torch.equal(module(batch[0]), module(batch[0])))
                module.train()

    noisy = Same()
    module, _, _ = fit(tmp_path, steps=2, callbacks=[InputNoise(sigma=0.1), noisy])
    assert noisy.equal == [False, False]
    module.eval()
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(module(x), module(x))
