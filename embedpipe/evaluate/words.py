"""What metrics are called in sentences."""

from __future__ import annotations

METRIC_WORDS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "map": "mAP",
    "mean_iou": "mean IoU",
    "auroc": "AUROC",
    "nll": "log loss",
    "brier": "Brier score",
    "ece": "calibration error",
    "r2": "R²",
    "mae": "mean absolute error",
}


def metric_words(name: str) -> str:
    """A metric as a sentence has it: ``balanced accuracy``, ``mAP``."""
    return METRIC_WORDS.get(name, name.replace("_", " "))
