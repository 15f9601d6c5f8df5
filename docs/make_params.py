"""Write docs/params.md from the options models: their descriptions are the reference.

python docs/make_params.py
"""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from embedpipe.config import Params
from embedpipe.heads.options import HeadOptions
from embedpipe.heads.presets import PRESETS
from embedpipe.heads.registry import FAMILIES
from embedpipe.transfer.options import (
    RECIPES,
    ArmOptions,
    DirectOptions,
    FrozenOptions,
    LoadOptions,
    TrainedOptions,
)

TASK_EXAMPLES = """One of each kind:

```yaml
tasks:
  species: {on: photos, labels: label} # kind: classes, from a folder a class or a column
  tags: # any number of labels a sample; lists in Parquet and JSON Lines need no separator
    on: photos
    labels: tags.csv
    column: tags
    kind: multilabel
    separator: ";"
  attributes: {on: photos, labels: [wings, legs, tail], kind: multilabel} # columns of 0, 1 and nothing
  age: {on: photos, labels: age, kind: number}
  box: {on: photos, labels: boxes.csv, column: [x, y, w, h], kind: number, box: xywh}
  parts: # photos/a/1.jpg has its mask in masks/a/1.png
    on: photos
    labels: masks/
    kind: dense
    classes: {ground: 0, bird: [1, 2]}
    ignore: [255]
```

| kind | learned by | metrics, the first selects | what is missing |
|---|---|---|---|
| `classes` | every family | balanced accuracy, accuracy, macro F1, AUROC, log loss, Brier, ECE | an empty cell |
| `multilabel` | every family but svm, lda and centroid | mAP, macro and micro F1, AUROC, log loss | a cell, or one \
label of a sample |
| `number` | every family but logistic, svm, lda and centroid | R², MAE, averaged over numbers; mean IoU of boxes | \
a cell; a sample counts where all its numbers are there |
| `dense` | conv, on taps that keep the grid (`none`, `grid:k`) | mean IoU, accuracy and macro F1 of places | a sample \
without a mask, a pixel of `ignore` |

`compare.k_shot` counts labels a class, and is for `classes` alone."""


PAGE = Path(__file__).parent / "params.md"


def page() -> str:
    """The whole page."""
    parts = [
        "# params.yaml, key by key",
        "",
        "Written by `docs/make_params.py` from the options that stand beside each component. Sections are dicts "
        "by name where they say *by name*; a relative path is relative to `params.yaml`.",
    ]
    for name, field in Params.model_fields.items():
        if name == "heads":
            parts += [
                "",
                "## heads, by name",
                "",
                "A head's family is its name unless `family:` says otherwise. "
                "Each hyperparameter is a value, a list, `{log: [low, high, num]}` or "
                "`{linear: [low, high, num]}`.",
            ]
            parts += [line for model, title in head_models() for line in table(model, title)]
            parts += preset_table()
            continue
        if name == "transfer":
            parts += transfer_section(field.description or "")
            continue
        by_name = typing.get_origin(field.annotation) is dict
        parts += ["", f"## {name}{', by name' if by_name else ''}", "", field.description or ""]
        models = list(models_in(field.annotation))
        parts += [line for model in models for line in nested(model, "")]
        if name == "tasks":
            parts += ["", TASK_EXAMPLES]
        if not models and field.default is not PydanticUndefined:
            parts += ["", f"Default: `{field.default}`."]
    return "\n".join(parts) + "\n"


def transfer_section(description: str) -> list[str]:
    """Recipes with their defaults, then the keys."""
    lines = [
        "",
        "## transfer, by name",
        "",
        f"{description} An arm's recipe is its name unless `recipe:` says otherwise. Predictions of an arm are named "
        "`<name>@<backbone>`.",
        "",
        "| recipe | what it is | sets |",
        "|---|---|---|",
    ]
    for name, recipe in RECIPES.items():
        sets = ", ".join(
            f"{key}: {str(value).replace(chr(39), '')}" for key, value in recipe.defaults.items()
        )
        lines.append(f"| `{name}` | {cell(recipe.says)} | {f'`{sets}`' if sets else ''} |")
    lines += table(ArmOptions, "every arm")
    lines += own_keys(DirectOptions, "direct") + own_keys(FrozenOptions, "frozen")
    lines += own_keys(TrainedOptions, "the others, which are trained")
    return lines + table(LoadOptions, "load")


def own_keys(model: type[BaseModel], title: str) -> list[str]:
    """Table of the keys that a recipe has beside those of every arm."""
    fields = {key: field for key, field in model.model_fields.items() if key not in ArmOptions.model_fields}
    rows = [
        f"| `{name}` | {default_of(field)} | {cell(field.description or '')} |"
        for name, field in fields.items()
    ]
    return ["", f"`{title}`", "", "| key | default | meaning |", "|---|---|---|", *rows]


def head_models() -> list[tuple[type[BaseModel], str]]:
    """The keys all heads share, then those of each family."""
    own = [(family.options, f"heads: {name}") for name, family in FAMILIES.items()]
    return [(HeadOptions, "every head"), *own]


def preset_table() -> list[str]:
    """Published protocols, written out."""
    lines = [
        "",
        "`preset: <name>` stands for a published protocol; keys beside it replace its own.",
        "",
        "| preset | stands for | source | what differs |",
        "|---|---|---|---|",
    ]
    for name, preset in PRESETS.items():
        options = ", ".join(
            f"{key}: {str(value).replace(chr(39), '')}" for key, value in preset.options.items()
        )
        written = f"`family: {preset.family}, {options}`"
        lines.append(f"| `{name}` | {written} | {cell(preset.source)} | {cell(preset.differs)} |")
    return lines


def nested(model: type[BaseModel], place: str, shown: set[str] | None = None) -> list[str]:
    """Tables of a model and of the models inside it; what has a kind is told by it, and shown once."""
    shown = set() if shown is None else shown
    lines = table(model, place)
    for name, field in model.model_fields.items():
        for inner in models_in(field.annotation):
            kind = kind_of(inner)
            if not kind or kind not in shown:
                lines += nested(inner, f"{place}{name}{kind}", shown | {kind})
            shown.add(kind)
    return lines


def kind_of(model: type[BaseModel]) -> str:
    kind = model.model_fields.get("kind")
    values = typing.get_args(kind.annotation) if kind else ()
    return f": {{kind: {values[0]}}}" if len(values) == 1 else ""


def table(model: type[BaseModel], title: str) -> list[str]:
    """One table of keys."""
    shared = HeadOptions.model_fields if issubclass(model, HeadOptions) and model is not HeadOptions else {}
    rows = [
        f"| `{field.alias or name}` | {default_of(field)} | {cell(field.description or '')} |"
        for name, field in model.model_fields.items()
        if name not in shared or field.default != shared[name].default
    ]
    head = [f"`{title}`", ""] if title else []
    return ["", *head, "| key | default | meaning |", "|---|---|---|", *rows] if rows else []


def default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "*required*"
    if field.default_factory is not None:
        return "see meaning"
    value = field.default
    if isinstance(value, BaseModel):
        return "below"
    if isinstance(value, (tuple, list)):
        value = list(value)
    return f"`{'null' if value is None else value}`"


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def models_in(annotation: Any) -> typing.Iterator[type[BaseModel]]:
    """Options models that an annotation names."""
    origin = typing.get_origin(annotation)
    if origin in (dict, list, tuple, typing.Union, types.UnionType, typing.Annotated):
        for argument in typing.get_args(annotation):
            yield from models_in(argument)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
