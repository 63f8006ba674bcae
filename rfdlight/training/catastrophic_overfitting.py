"""When fast adversarial training fails."""

from __future__ import annotations


class CatastrophicOverfitting:
    """Compares, epoch by epoch, the accuracy under the attack of the training with that under a stronger one.

    Training against one step can turn, within an epoch, into a network that withstands nothing but that step:
    the accuracy under PGD falls towards zero while the one under FGSM rises. It is reported once, at the first
    epoch whose PGD accuracy is below half of its best, with an FGSM accuracy not below the one of that best epoch.

    Source: Wong, Rice, Kolter, Fast is Better than Free, ICLR 2020, section 5.4. Deviation: the thresholds are ours.

    Example:
        >>> watch = CatastrophicOverfitting()
        >>> [watch.update(0.45, 0.40), watch.update(0.85, 0.02)][1]
        'catastrophic overfitting: accuracy 2.0 % under PGD (best 40.0 %), 85.0 % under FGSM'
    """

    def __init__(self) -> None:
        self.best = (0.0, 0.0)
        self.reported = False

    def update(self, fgsm: float, pgd: float) -> str | None:
        """Take the accuracies of an epoch, in [0, 1]; return one line if it has just failed."""
        best_pgd, fgsm_there = self.best
        if pgd >= best_pgd:
            self.best = (pgd, fgsm)
        if self.reported or pgd >= best_pgd / 2 or fgsm < fgsm_there:
            return None
        self.reported = True
        pgd, best, fgsm = (100 * share for share in (pgd, best_pgd, fgsm))
        return f"catastrophic overfitting: accuracy {pgd:.1f} % under PGD (best {best:.1f} %), {fgsm:.1f} % under FGSM"
