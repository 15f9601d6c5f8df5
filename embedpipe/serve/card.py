"""The model card of a bundle: what was trained on what, how well it does, and how its input is made.

Facts come from the project's own files; nothing is judged here.

References
----------
Mitchell et al. 2019, "Model Cards for Model Reporting".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embedpipe.evaluate.words import metric_words
from embedpipe.serve.arms import TrainedArm
from embedpipe.serve.module import ArmSpec

NO_LICENCE = "not given"


def about_arm(
    arm: TrainedArm,
    spec: ArmSpec,
    *,
    params: Mapping[str, Any],
    training: Mapping[str, Any] | None,
    data: Mapping[str, Any],
    backbones: Mapping[str, Mapping[str, Any]],
    metrics: Mapping[str, Any],
    licence: str | None,
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """What the card says beside the module itself.

    Parameters
    ----------
    params
        Hyperparameters.
    training
        Of a transfer arm: recipe, note, the head that it started from, if any, and whether its backbone began from
        random weights; None for a head on a frozen backbone.
    data
        Data set, label column, samples in each split.
    backbones
        Model, weights, digest, fingerprint and the rest of the spec, by name.
    metrics
        ``val`` and ``test``: figures with intervals, or None.
    """
    return {
        "task": arm.task,
        "kind": arm.target.kind,
        "classes": list(arm.target.classes),
        "outputs": list(arm.target.outputs),
        "arm": arm.arm,
        "family": arm.family,
        "params": dict(params),
        "training": None if training is None else dict(training),
        "licence": licence or NO_LICENCE,
        "data": dict(data),
        "metrics": dict(metrics),
        "backbones": {name: dict(one) for name, one in backbones.items()},
        "preprocessing": [
            {"backbone": body.name, **(body.tokens or body.preprocessing)} for body in spec.bodies
        ],
        "versions": dict(versions),
    }


def readme(about: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    arm, data, kind = about["arm"], about["data"], about["kind"]
    example = '"photo.jpg"' if _samples(about) == "images" else '"a text"'
    parts = [
        f"# {about['task']}: {arm}",
        "",
        f"{_what(about)} that answers for {_samples(about)}: {_answers(about)}",
        "",
        "```python",
        "import embedpipe",
        "",
        'model = embedpipe.load("this folder")',
        f"model.predict([{example}])" + ("" if kind == "number" else f"; model.predict_proba([{example}])"),
        "```",
        "",
        f"Licence: {about['licence']}. That of the source model's weights and of the data may bind you too.",
        "",
        "## Data",
        "",
        f"Data set `{data['dataset']}`, labels `{data['labels']}`. "
        f"It learnt from {data['num_train']:,} labelled training samples.",
        "",
        "| split | samples |",
        "|---|---|",
        *(f"| {split} | {num:,} |" for split, num in data["splits"].items()),
        "",
        "## Metrics",
        "",
        *_metrics(about["metrics"]),
        "",
        "## Source model",
        "",
        *(
            f"- `{name}`: {one['model']}, weights {one['weights'] or 'none'}, spec `{one['fingerprint']}`, "
            f"weights' digest `{one['weights_digest']}`"
            for name, one in about["backbones"].items()
        ),
        *_training(about["training"]),
        "",
        "## Input",
        "",
        *_input(about),
        "",
        *(_steps(one) for one in about["preprocessing"]),
        "",
        _output(about),
        "",
        *_checked(about["checked"]),
    ]
    return "\n".join(parts) + "\n"


def _samples(about: Mapping[str, Any]) -> str:
    return "texts" if "max_length" in about["preprocessing"][0] else "images"


def _input(about: Mapping[str, Any]) -> list[str]:
    if _samples(about) == "texts":
        return [
            "`embedpipe.load` makes tokens by itself. For the networks in `model.pt2` and `model.onnx`, which take "
            "int32 token ids (texts, tokens), padded with -1, do this first:",
        ]
    return [
        "`embedpipe.load` decodes and resizes by itself. For the networks in `model.pt2` and `model.onnx`, which take "
        "uint8 pixels (images, channels, height, width) and normalise them, do this first:",
    ]


def _what(about: Mapping[str, Any]) -> str:
    training = about["training"]
    if training is None or training["recipe"] == "frozen":
        return f"A frozen backbone with a head (`{about['family']}`)"
    if training["from_random_weights"]:
        return f"A network trained from random weights (`{about['family']}`)"
    return f"A fine-tuned backbone with its head (`{about['family']}`)"


def _training(training: Mapping[str, Any] | None) -> list[str]:
    if training is None:
        return []
    if training["recipe"] == "frozen":
        said = "Its weights are unchanged."
    elif training["from_random_weights"]:
        said = "Its architecture alone was used."
    else:
        said = "Training went on from it."
    if training["head"]:
        said += f" The head was `{training['head']}`."
    return ["", said + (f" The network: {training['note']}." if training["note"] else "")]


def _answers(about: Mapping[str, Any]) -> str:
    names = about["classes"]
    if about["kind"] == "number":
        outputs = ", ".join(f"`{name}`" for name in about["outputs"])
        return f"the numbers {outputs}." if outputs else f"a number, `{about['task']}`."
    shown = ", ".join(f"`{name}`" for name in names[:20]) + (" …" if len(names) > 20 else "")
    return f"{'any' if about['kind'] == 'multilabel' else 'one'} of {len(names)} classes ({shown})."


def _metrics(metrics: Mapping[str, Any]) -> list[str]:
    rows = []
    for split, words in (("val", "validation"), ("test", "test")):
        for name, one in (metrics.get(split) or {}).items():
            if one["value"] is not None:
                interval = f"{one['ci_low']:.4g} to {one['ci_high']:.4g}"
                rows.append(f"| {words} | {metric_words(name)} | {one['value']:.4g} | {interval} |")
    said = []
    if rows:
        said = ["| on | metric | value | 95 % interval |", "|---|---|---|---|", *rows]
    note = metrics.get("note")
    return [*said, *(["", note] if note and said else [note] if note else [])]


def _steps(one: Mapping[str, Any]) -> str:
    if "max_length" in one:
        prompt = f"put {one['prompt']!r} before each text, " if one["prompt"] else ""
        return (
            f"- for `{one['backbone']}`: {prompt}encode with `{one['file']}` (a file of the `tokenizers` library), "
            f"special tokens included, and cut at {one['max_length']} tokens"
        )
    colours = "grey" if len(one["mean"]) == 1 else "RGB"
    by = "torchvision's tensors" if one.get("on_tensors") else "Pillow"
    sides = (
        "both sides" if one.get("squash") else "the longer side" if one.get("border") else "the shorter side"
    )
    crop = f"crop the centre to {one['crop_px']}×{one['crop_px']} px"
    if one.get("longest_px"):
        sides += f" (the longer one to at most {one['longest_px']} px)"
    if one.get("border"):
        crop += ", where it is smaller with borders of the mean colour"
    if one.get("crop_floor"):
        crop += ", half pixels rounded down"
    return (
        f"- for `{one['backbone']}`: decode to {colours} (alpha over white, EXIF rotation applied), resize {sides} "
        f"to {one['resize_px']} px ({one['interpolation']}, antialiased, by {by}), {crop}"
    )


def _output(about: Mapping[str, Any]) -> str:
    if about["kind"] == "number":
        return "Their output is the number itself."
    return "Their output is a probability for each class, in the order above."


def _checked(checked: Mapping[str, Any]) -> list[str]:
    if not checked["num_samples"]:
        return [f"Not compared with the predictions of the pipeline: {checked['why']}."]
    return [
        f"Compared with the pipeline's own predictions on {checked['num_samples']} samples: the largest difference is "
        f"{checked['largest_difference']:.1e}."
    ]
