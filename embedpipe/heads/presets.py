"""Published protocols by name: what each asks of a head, and where it was published.

A preset stands for explicit options of a family; what is written beside it in params.yaml replaces its own. Knows
nothing of estimators.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embedpipe.errors import ConfigError
from embedpipe.params import did_you_mean

KEY = "preset"
"""Key of an entry of `heads:` that names a preset."""


@dataclass(frozen=True)
class Preset:
    """One protocol.

    Attributes
    ----------
    family : str
    options : mapping
        As they would stand in params.yaml.
    source : str
        Where it was published.
    differs : str
        What it leaves to the rest of params.yaml, or does another way than its source.
    """

    family: str
    options: Mapping[str, Any]
    source: str
    differs: str


# the script multiplies its rates by (rows a step over all devices) / 256, and trained on 8 x 128 rows a step
_DINOV2_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)

PRESETS: Mapping[str, Preset] = {
    "dinov2_linear": Preset(
        "sgd",
        {
            "lr": [round(4 * rate, 12) for rate in _DINOV2_RATES],
            "weight_decay": 0.0,
            "schedule": "cosine",
            "epochs": 10,
            "patience": 0,
            "batch": 1024,
            "standardise": False,
        },
        "Oquab et al. 2023, DINOv2, appendix B.3; facebookresearch/dinov2, dinov2/eval/linear.py",
        "The source's last block, last 4 blocks, with and without average pool are taps: list them, joined or "
        "not, under `backbones:`. Ten passes suit a million images: raise `epochs` for thousands. The source "
        "reports the best of its 52 heads on the samples that chose it; here validation chooses, and the test is "
        "sealed.",
    ),
    "dinov2_logistic": Preset(
        "logistic",
        {"C": {"log": [1e-6, 1e5, 45]}, "standardise": False},
        "Oquab et al. 2023, DINOv2, section 7; facebookresearch/dinov2, dinov2/eval/log_regression.py",
        "The source fits once more on training and validation samples together; here validation stays apart.",
    ),
    "dino_knn": Preset(
        "knn",
        {"k": [10, 20, 100, 200], "weights": "softmax", "temperature": 0.07, "standardise": False},
        "Caron et al. 2021, DINO, section 4 (Wu et al. 2018, section 3.4)",
        "As published.",
    ),
    "clip_logistic": Preset(
        "logistic",
        {"C": {"log": [1e-6, 1e6, 96]}, "standardise": False},
        "Radford et al. 2021, CLIP, appendix A.3",
        "The source searches these 96 strengths by halving and stops after 1,000 iterations; here all are solved "
        "together, to the optimum.",
    ),
    "kornblith": Preset(
        "logistic",
        {"C": {"log": [1e-6, 1e5, 45]}, "standardise": False},
        "Kornblith et al. 2019, Do Better ImageNet Models Transfer Better?, appendix A.4",
        "The range is read as scikit-learn's C, as the protocol's later users do. The source fits once more on "
        "training and validation samples together; here validation stays apart.",
    ),
    "few_shot_closed_form": Preset(
        "ridge",
        {"alpha": 1024.0, "standardise": True},
        "Dosovitskiy et al. 2021, ViT, section 4.1; google-research/big_vision, evaluators/fewshot_lsr.py",
        "Targets are 0 and 1 where the source has -1 and 1, which moves no decision; the intercept is free where "
        "the source's is nearly so. Set `compare.k_shot: [1, 5, 10, 25]` and `draws: 3` for its label budgets.",
    ),
}


def with_preset(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    """An entry of `heads:` with its preset, if it names one, written out.

    Raises
    ------
    ConfigError
        If there is no such preset (did you mean), or the entry names another family than the preset's.
    """
    if KEY not in entry:
        return dict(entry)
    rest = {key: value for key, value in entry.items() if key != KEY}
    name = entry[KEY]
    if not isinstance(name, str) or name not in PRESETS:
        close = did_you_mean(name, list(PRESETS)) if isinstance(name, str) else ""
        raise ConfigError(f"{where}.{KEY}: no preset is named {name!r}{close}; presets: {', '.join(PRESETS)}")
    preset = PRESETS[name]
    if rest.get("family", preset.family) != preset.family:
        raise ConfigError(
            f"{where}.family: preset {name!r} is of family {preset.family!r}, found {rest['family']!r}; "
            "drop one of the two"
        )
    return {"family": preset.family, **preset.options, **rest}
