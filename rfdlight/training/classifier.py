"""Training of victims."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import timm
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from rich.text import Text
from timm.optim import param_groups_layer_decay
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms.v2 import MixUp

from rfdlight._io import expanded, plain_console
from rfdlight.attacks.fgsm import FGSM
from rfdlight.attacks.pgd import PGD
from rfdlight.core.balls import check_eps
from rfdlight.data.base import ImageData
from rfdlight.data.loaders import Batch
from rfdlight.errors import UserError, shown, unknown_name
from rfdlight.training.adversary import Adversary, CatastrophicOverfitting, attacked
from rfdlight.victims.networks import create_network, pretrained_settings, strange_option
from rfdlight.victims.victim import Victim
from rfdlight.victims.weights import start_from


class Classifier(LightningModule):
    """Train a classifier of pixels in [0, 1], from scratch or from given weights, also adversarially.

    The learning rate rises linearly for the first `warmup` of the steps and then falls linearly to zero. The weights
    are those of the last step, or of the best epoch on images held out of the training split (`--data.validation`) if a
    ModelCheckpoint callback monitors one; nothing is selected on test images.

    Logged per epoch: `train_loss` and `train_accuracy`, with an adversary the accuracy at the attacked images; with
    held-out images `val_loss` and `val_accuracy`, with an adversary also `val_fgsm_accuracy` (one step from
    a random start) and `val_pgd_accuracy` (10 steps), in the adversary's ball.

    Args:
        network: Any name that `timm.create_model` knows, ours among them ("resnet8", "resnet20").
        optimizer: Makes the optimizer from the parameters; its learning rate is the highest one.
        warmup: Share of the steps, in (0, 1), in which the learning rate rises.
        channels_last: Keep images and weights in channels-last memory, usually faster.
        network_options: Further options of timm, such as `drop_path_rate`; the victim's card has them too.
        pretrained: Start from timm's weights; size, interpolation, crop and normalisation are then theirs.
        checkpoint: Start from this file of weights, safetensors or a tensor state dict; a head of another size is
            replaced by a new one.
        layer_decay: Factor of the learning rate per layer away from the head, in (0, 1]; below 1, biases and
            normalisations have no weight decay.
        label_smoothing: Share of the target spread over all classes, in [0, 1).
        mixup: Parameter of the Beta distribution that pairs of images are mixed by, >= 0; 0 mixes none.
        adversary: Trains on attacked images.

    Raises:
        UserError: If timm does not know `network`, or a number is out of range.
    """

    victim: Victim

    def __init__(
        self,
        network: str = "resnet20",
        optimizer: OptimizerCallable = lambda parameters: SGD(
            parameters, lr=0.2, momentum=0.9, nesterov=True, weight_decay=5e-4
        ),
        warmup: float = 0.2,
        channels_last: bool = True,
        network_options: dict[str, Any] | None = None,
        pretrained: bool = False,
        checkpoint: str | None = None,
        layer_decay: float = 1.0,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        adversary: Adversary | None = None,
    ) -> None:
        super().__init__()
        if not timm.is_model(network):
            raise unknown_name("network", network, timm.list_models())
        if not 0 < warmup < 1:
            raise UserError(f"model.warmup must lie in (0, 1), got {warmup}")
        if not 0 < layer_decay <= 1:
            raise UserError(f"model.layer_decay must lie in (0, 1], got {layer_decay}")
        if not 0 <= label_smoothing < 1:
            raise UserError(f"model.label_smoothing must lie in [0, 1), got {label_smoothing}")
        if not mixup >= 0:
            raise UserError(f"model.mixup must be at least 0, got {mixup}")
        if mixup > 0 and adversary is not None:
            raise UserError("model.mixup mixes labels, which model.adversary needs whole: give one of the two")
        if pretrained and checkpoint is not None:
            raise UserError("model.pretrained and model.checkpoint both name the first weights: give one of the two")
        strange = strange_option(network_options or {})
        if strange is not None:
            raise UserError(
                f"model.network_options may not have {strange}: expected numbers and text, and nothing that the data, "
                "--model.pretrained or --model.checkpoint settles"
            )
        self.network_name = network
        self.optimizer = optimizer
        self.warmup = warmup
        self.channels_last = channels_last
        self.network_options = network_options or {}
        self.pretrained = pretrained
        self.start_checkpoint = checkpoint
        self.layer_decay = layer_decay
        self.label_smoothing = label_smoothing
        self.mixup = mixup
        self.adversary = adversary
        self.watch = CatastrophicOverfitting()

    @property
    def data(self) -> ImageData:
        """The data module of the trainer."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def configure_model(self) -> None:
        """Build the network for the trainer's data."""
        self.build(self.data)

    def build(self, data: ImageData) -> None:
        """Build the network for the classes of `data`, once; images get the size of the weights or the network.

        Raises:
            UserError: If the weights are missing or do not fit, timm refuses the options, or the adversary's ball holds
                every image.
        """
        if hasattr(self, "victim"):
            return
        settings = pretrained_settings(self.network_name) if self.pretrained or not data.has_native_size else None
        if settings is not None:
            data.prepare(settings.preparation)
        if self.adversary is not None:
            threat = self.adversary.threat
            check_eps(threat.eps, threat.norm, "model.adversary.eps", data.image_shape)
        try:
            network = create_network(
                self.network_name,
                pretrained=self.pretrained,
                num_classes=data.num_classes,
                in_chans=len(data.mean),
                **self.network_options,
            )
        except TypeError as error:
            raise UserError(f"model.network_options does not fit '{self.network_name}': {error}") from error
        if self.start_checkpoint is not None:
            _print(start_from(network, expanded(self.start_checkpoint), self.network_name))
        # timm's statistics are those of RGB.
        statistics = settings if settings is not None and len(settings.mean) == len(data.mean) else data
        self.victim = Victim(network, statistics.mean, statistics.std)
        names = ["train_accuracy", "val_accuracy", "val_fgsm_accuracy", "val_pgd_accuracy"]
        accuracy = {name: MulticlassAccuracy(data.num_classes, average="micro") for name in names}
        self.accuracy: Mapping[str, MulticlassAccuracy] = torch.nn.ModuleDict(accuracy)  # type: ignore[assignment]
        if self.channels_last:
            self.victim.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return self.victim(x)

    def _criterion(self, logits: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(logits, y, label_smoothing=self.label_smoothing)

    def _images(self, batch: Batch) -> tuple[Tensor, Tensor]:
        x, y, _ = batch
        return (x.contiguous(memory_format=torch.channels_last) if self.channels_last else x), y

    def _log_accuracy(self, name: str, logits: Tensor, y: Tensor) -> None:
        self.accuracy[name](logits, y)
        self.log(name, self.accuracy[name], on_step=False, on_epoch=True, prog_bar=True, batch_size=len(y))

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the loss of a batch."""
        x, y = self._images(batch)
        if self.adversary is not None:
            loss, logits = self.adversary.loss(self.victim, x, y, self._criterion)
        elif self.mixup > 0:
            mixed, targets = MixUp(alpha=self.mixup, num_classes=self.data.num_classes)(x, y)
            logits = self(mixed)
            loss = self._criterion(logits, targets)
            y = targets.argmax(1)
        else:
            logits = self(x)
            loss = self._criterion(logits, y)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(y))
        self._log_accuracy("train_accuracy", logits, y)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Log loss and accuracy of a batch of held-out images, in adversarial training also under attack."""
        x, y = self._images(batch)
        logits = self(x)
        self.log("val_loss", cross_entropy(logits, y), on_epoch=True, batch_size=len(y))
        self._log_accuracy("val_accuracy", logits, y)
        if self.adversary is None:
            return
        threat = self.adversary.threat
        # Lightning validates in inference mode, whose tensors have no gradients.
        with torch.inference_mode(False):
            x, y = x.clone(), y.clone()
            for name, attack in (
                ("val_fgsm_accuracy", FGSM(random_start=True, eps=threat.eps, norm=threat.norm)),
                ("val_pgd_accuracy", PGD(eps=threat.eps, norm=threat.norm)),
            ):
                points = attacked(self.victim, attack, x, y)
                with torch.no_grad():
                    self._log_accuracy(name, self(points), y)

    def on_validation_epoch_end(self) -> None:
        """Report catastrophic overfitting."""
        if self.adversary is None or self.trainer.sanity_checking:
            return
        fgsm, pgd = (float(self.accuracy[f"val_{attack}_accuracy"].compute()) for attack in ("fgsm", "pgd"))
        failure = self.watch.update(fgsm, pgd)
        self.log("catastrophic_overfitting", float(self.watch.reported))
        if failure is not None:
            _print(f"epoch {self.current_epoch}: {failure}")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise a UserError for a resumed training of another length, for which its learning rate is not planned."""
        schedules = checkpoint.get("lr_schedulers") or [{}]
        planned, steps = schedules[0].get("total_steps"), self.trainer.estimated_stepping_batches
        if planned is not None and planned != steps:
            raise UserError(
                f"ckpt_path must be of a training of {steps} steps, got one of {planned}; give its "
                "--trainer.max_epochs and --data.batch_size, or start from its weights with --model.checkpoint"
            )

    def configure_optimizers(self) -> Any:
        """Return the optimizer, with one linear rise and fall of its learning rate."""
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise UserError("the learning rate falls until the end; give --trainer.max_epochs or --trainer.max_steps")
        # OneCycleLR divides by zero where the rise is exactly one step long.
        warmup = self.warmup + 1e-6 if self.warmup * steps == 1 else self.warmup
        optimizer = self._layered() if self.layer_decay < 1 else self.optimizer(self.victim.parameters())
        schedule = OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=int(steps),
            pct_start=warmup,
            anneal_strategy="linear",
            cycle_momentum=False,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _layered(self) -> Optimizer:
        """Return the optimizer with the learning rates of timm's layers, the highest at the head."""
        network = self.victim.network
        if not hasattr(network, "group_matcher"):
            raise UserError(
                f"model.layer_decay needs a network whose layers timm has put in order, '{self.network_name}' is none"
            )
        # The decay of 1 marks the groups with the optimizer's own decay.
        groups = param_groups_layer_decay(network, weight_decay=1.0, layer_decay=self.layer_decay)
        optimizer = self.optimizer(groups)
        for group in optimizer.param_groups:
            group["lr"] *= group["lr_scale"]
            group["weight_decay"] *= optimizer.defaults["weight_decay"]
        return optimizer


def _print(line: str) -> None:
    plain_console(stderr=True).print(Text(shown(line)), soft_wrap=True)
