"""The whole of params.yaml: assembled from the options that stand beside each component, checked across sections.

The command line validates all of it before anything runs; a stage validates the sections it reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from embedpipe.backbones.options import BackboneOptions, SourceModelOptions
from embedpipe.errors import ConfigError
from embedpipe.evaluate.arms import selected_arm
from embedpipe.evaluate.options import (
    Baselines,
    CompareOptions,
    SelectOptions,
    check_baselines,
    check_k_shot_heads,
)
from embedpipe.extract.options import ExtractOptions
from embedpipe.heads.options import HeadOptions
from embedpipe.heads.registry import head_options
from embedpipe.ingest.options import DatasetOptions
from embedpipe.ingest.task_options import TaskOptions
from embedpipe.params import Seed, StrictModel, did_you_mean, load_yaml, problems
from embedpipe.report.options import ReportOptions
from embedpipe.transfer.options import ArmOptions, transfer_options

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]*$")


class Params(StrictModel):
    """Every section of params.yaml. Sections are written out, if only as {}, since DVC tracks them by name."""

    seed: Seed = Field(description="Seed of splits, k-shot draws, bootstrap and random starts, below 2**32.")
    datasets: dict[str, DatasetOptions] = Field(min_length=1, description="Samples, by name.")
    tasks: dict[str, TaskOptions] = Field(min_length=1, description="Labels, by name, each on a data set.")
    source: dict[str, SourceModelOptions] = Field(description="Source models trained here; {} for none.")
    backbones: dict[str, BackboneOptions] = Field(min_length=1, description="Frozen source models.")
    extract: ExtractOptions = Field(description="How features are computed and stored.")
    heads: dict[str, Any] = Field(min_length=1, description="Families of heads with their grids.")
    baselines: Baselines = Field(description="What the arms are shown beside.")
    select: SelectOptions = Field(description="What chooses the arm.")
    compare: CompareOptions = Field(description="Label budgets and the test's seal.")
    transfer: dict[str, Any] = Field(description="Arms that adapt the source model itself; {} for none.")
    report: ReportOptions = Field(description="The page.")

    def head_options(self) -> dict[str, HeadOptions]:
        """Validated options of every head."""
        return {name: head_options(name, raw) for name, raw in self.heads.items()}

    def transfer_options(self) -> dict[str, ArmOptions]:
        """Validated options of every transfer arm."""
        return {name: transfer_options(name, raw) for name, raw in self.transfer.items()}

    @property
    def roles(self) -> dict[str, str]:
        """Role of every backbone in a comparison."""
        return {name: options.role for name, options in self.backbones.items()}


def load_params(path: Path) -> Params:
    """Read and check params.yaml.

    Raises
    ------
    ConfigError
        One message with every problem, one a line.
    """
    raw = load_yaml(path)
    where = path.name
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        found = problems(error, Params, where)
        found += _entry_problems(raw.get("heads"), head_options, f"{where}: heads")
        found += _entry_problems(raw.get("transfer"), transfer_options, f"{where}: transfer")
        raise ConfigError("\n".join(found)) from error
    found = _entry_problems(raw["heads"], head_options, f"{where}: heads")
    of_arms = _entry_problems(raw["transfer"], transfer_options, f"{where}: transfer")
    found += of_arms + _cross_problems(params, where)
    if not of_arms:
        found += _transfer_problems(params, where)
    if found:
        raise ConfigError("\n".join(found))
    return params


def _entry_problems(entries: object, check: Callable[[str, Any, str], object], where: str) -> list[str]:
    """Problems of a section whose entries each have a model of their own."""
    found = []
    for name, raw in entries.items() if isinstance(entries, dict) else ():
        try:
            check(name, raw, f"{where}.{name}")
        except ConfigError as error:
            found += str(error).splitlines()
    return found


def _transfer_problems(params: Params, where: str) -> list[str]:
    """Names that transfer arms give, and the labels a class that they ask for."""
    found = []
    for name, options in params.transfer_options().items():
        place = f"{where}: transfer.{name}"
        if name in params.heads:
            found.append(f"{place}: a head has that name too; rename one, since both name arms")
        if selected_arm("") == f"{name}@":
            found.append(f"{place}: the arm that draws choose anew has that name; rename it")
        for section, names in (("tasks", options.tasks), ("backbones", options.backbones)):
            known = list(getattr(params, section))
            found += [
                f"{place}.{section}: no {section.rstrip('s')} is named {one!r}{did_you_mean(one, known)}; "
                f"{section}: {', '.join(known)}"
                for one in names or ()
                if one not in known
            ]
        lacking = [k for k in options.numeric_k_shot if k not in params.compare.k_shot]
        if lacking:
            found.append(
                f"{place}.k_shot: {', '.join(map(str, lacking))}: expected numbers of compare.k_shot, where the heads "
                f"are trained that arms start from; it has {', '.join(map(str, params.compare.k_shot))}"
            )
        if options.draws is not None and options.draws > params.compare.draws:
            found.append(
                f"{place}.draws: expected at most compare.draws ({params.compare.draws}), found {options.draws}"
            )
    return found


def _cross_problems(params: Params, where: str) -> list[str]:
    found = []
    sections: dict[str, list[str]] = {
        name: list(getattr(params, name))
        for name in ("datasets", "tasks", "source", "backbones", "heads", "transfer")
    }
    for section, names in sections.items():
        found += [
            f"{where}: {section}.{name}: expected a name of letters, digits, - and _, since it names files and stages"
            for name in names
            if not _NAME.match(name)
        ]

    def known(place: str, name: str, section: str) -> None:
        if name not in sections[section]:
            found.append(
                f"{where}: {place}: no {section.rstrip('s')} is named {name!r}{did_you_mean(name, sections[section])}; "
                f"{section}: {', '.join(sections[section]) or '(none)'}"
            )

    def of_domain(place: str, name: str, domain: str, why: str) -> None:
        dataset = params.datasets.get(name)
        if dataset is not None and dataset.is_embedded != (domain == "target"):
            found.append(
                f"{where}: {place}: expected a data set of domain {domain}, found {name!r} of domain "
                f"{'target' if dataset.is_embedded else 'source'}: {why}"
            )

    for name, task in params.tasks.items():
        known(f"tasks.{name}.on", task.on, "datasets")
        of_domain(f"tasks.{name}.on", task.on, "target", "no backbone embeds the source domain")
        for head in task.heads or ():
            known(f"tasks.{name}.heads", head, "heads")
        for backbone in task.backbones or ():
            known(f"tasks.{name}.backbones", backbone, "backbones")
    for name, model in params.source.items():
        known(f"source.{name}.on", model.on, "datasets")
        of_domain(
            f"source.{name}.on",
            model.on,
            "source",
            f"a model trained on it has seen what heads are judged on; train it on other data, or set "
            f"datasets.{model.on}.domain: source",
        )
    for name, options in params.backbones.items():
        if options.source_model is not None:
            known(f"backbones.{name}.weights", options.source_model, "source")
    found += _modality_problems(params, where)
    for check in (
        lambda: check_baselines(params.baselines, params.roles, where),
        lambda: check_k_shot_heads(params.compare.heads, sections["heads"], where),
    ):
        try:
            check()
        except ConfigError as error:
            found += str(error).splitlines()
    return found


def _modality_problems(params: Params, where: str) -> list[str]:
    """Backbones that no data set, or no sample of their task, is for: an image is no text."""
    found = []
    modality_of = {name: options.known_modality for name, options in params.backbones.items()}
    embedded = {name: dataset.modalities for name, dataset in params.datasets.items() if dataset.is_embedded}
    for name, modality in modality_of.items():
        if modality is not None and embedded and not any(modality in own for own in embedded.values()):
            there = ", ".join(f"{dataset} ({' and '.join(own)})" for dataset, own in embedded.items())
            found.append(
                f"{where}: backbones.{name}: expected a data set of {modality}s to embed, found {there}"
            )
    for name, task in params.tasks.items():
        own = embedded.get(task.on, ())
        for backbone in task.backbones or ():
            modality = modality_of.get(backbone)
            if own and modality is not None and modality not in own:
                has = " or ".join(f"{one}s" for one in own)
                found.append(
                    f"{where}: tasks.{name}.backbones: expected backbones that embed {has}, as {task.on} has, found "
                    f"{backbone!r}, which embeds {modality}s"
                )
    return found
