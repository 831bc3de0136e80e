"""The judge of edits: how probable each digit is, by a classifier that learnt real digits."""

from __future__ import annotations

from typing import Any

import torch

from pullback.zoo.digits.data import NUM_CLASSES
from pullback.zoo.digits.evaluate import real_digits

_FOLDS, _BINS = 5, 10


class Judge:
    """A support vector machine whose scores are calibrated to probabilities.

    Args:
        seed: of the split and of the distortions.
        copies: distorted copies of each digit that it learns.

    Attributes:
        report: accuracy, log-loss and calibration error on real digits that it has not seen.
    """

    def __init__(self, seed: int = 0, copies: int = 5) -> None:
        from sklearn.calibration import CalibratedClassifierCV
        from sklearn.metrics import log_loss
        from sklearn.model_selection import GroupKFold
        from sklearn.svm import SVC

        digits = real_digits(seed, copies)
        # Copies of one digit stay on one side: else it would be calibrated on what it has learnt.
        folds = GroupKFold(_FOLDS).split(digits.features, digits.labels, digits.digit)
        machine = SVC(kernel="rbf", C=10.0, gamma="scale")
        calibrated = CalibratedClassifierCV(machine, cv=list(folds), ensemble=False)
        self._classifier: Any = calibrated.fit(digits.features, digits.labels)
        found = self(torch.from_numpy(digits.unseen))
        truth = torch.from_numpy(digits.unseen_labels)
        sure, said = found.max(1)
        right = (said == truth).double()
        self.report = {
            "unseen_real_digits": len(truth),
            "accuracy": float(right.mean()),
            "log_loss": float(log_loss(truth.numpy(), found.numpy(), labels=range(NUM_CLASSES))),
            "calibration_error": _calibration_error(sure, right),
        }

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Probabilities `[..., 10]` of images `[..., 1, 16, 16]` (or `[N, 256]`) in [−1, 1]."""
        rows = images.reshape(-1, 256).float().clamp(-1, 1)
        found = torch.from_numpy(self._classifier.predict_proba(rows.numpy())).double()
        return found.reshape(*(images.shape[:-3] if images.dim() > 2 else images.shape[:1]), -1)


def _calibration_error(sure: torch.Tensor, right: torch.Tensor) -> float:
    """How far shares of right answers are from the probability stated, mean over ten bins."""
    bins = (sure * _BINS).long().clamp(max=_BINS - 1)
    return sum(
        float((sure[bins == one].mean() - right[bins == one].mean()).abs() * (bins == one).sum())
        for one in bins.unique()
    ) / len(sure)
