"""Training of victims."""

from __future__ import annotations

import math
from typing import Any

import timm
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR
from torchmetrics.classification import MulticlassAccuracy

from rfdlight.data.base import Batch, ImageData
from rfdlight.errors import UserError, unknown_name
from rfdlight.victims.networks import create_network
from rfdlight.victims.victim import Victim


class Classifier(LightningModule):
    """Trains a classifier of pixels in [0, 1] by cross-entropy.

    The learning rate rises linearly for the first `warmup` of the steps and then falls linearly
    to zero. The weights are those of the last step; nothing is selected on test images.

    Args:
        network: Any name that `timm.create_model` knows, ours among them ("resnet8", "resnet20").
        optimizer: Makes the optimizer from the parameters; its learning rate is the highest one.
        warmup: Share of the steps, in (0, 1), in which the learning rate rises.
        channels_last: Keep images and weights in channels-last memory, usually faster.

    Raises:
        UserError: If timm does not know `network`, or `warmup` is out of range.
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
    ) -> None:
        super().__init__()
        if not timm.is_model(network):
            raise unknown_name("network", network, timm.list_models())
        if not 0 < warmup < 1:
            raise UserError(f"model.warmup must lie in (0, 1), got {warmup}")
        self.network_name = network
        self.optimizer = optimizer
        self.warmup = warmup
        self.channels_last = channels_last

    @property
    def data(self) -> ImageData:
        """The data module that the trainer was given."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def configure_model(self) -> None:
        """Build the network for the data's classes, once."""
        if hasattr(self, "victim"):
            return
        channels = len(self.data.mean)
        network = create_network(self.network_name, num_classes=self.data.num_classes, in_chans=channels)
        self.victim = Victim(network, self.data.mean, self.data.std)
        self.accuracy = MulticlassAccuracy(self.data.num_classes, average="micro")
        if self.channels_last:
            self.victim.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return self.victim(x)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Cross-entropy of a batch."""
        x, y, _ = batch
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        logits = self(x)
        loss = cross_entropy(logits, y)
        self.accuracy(logits, y)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(y))
        self.log("train_accuracy", self.accuracy, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """The optimizer, with one linear rise and fall of its learning rate.

        Raises:
            UserError: If the training has no end.
        """
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise UserError("the learning rate falls until the end; give --trainer.max_epochs or --trainer.max_steps")
        # OneCycleLR divides by zero where the rise is exactly one step long.
        warmup = self.warmup + 1e-6 if self.warmup * steps == 1 else self.warmup
        optimizer = self.optimizer(self.victim.parameters())
        schedule = OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=int(steps),
            pct_start=warmup,
            anneal_strategy="linear",
            cycle_momentum=False,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
