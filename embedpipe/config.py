"""The whole of params.yaml: assembled from the options that stand beside each component, checked across sections.

The command line validates all of it before anything runs; a stage validates the sections it reads.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from embedpipe.backbones.options import BackboneOptions, SourceModelOptions
from embedpipe.errors import ConfigError
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
    report: ReportOptions = Field(description="The page.")

    def head_options(self) -> dict[str, HeadOptions]:
        """Validated options of every head."""
        return {name: head_options(name, raw) for name, raw in self.heads.items()}

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
        found += _head_problems(raw.get("heads"), where)
        raise ConfigError("\n".join(found)) from error
    found = _head_problems(raw["heads"], where) + _cross_problems(params, where)
    if found:
        raise ConfigError("\n".join(found))
    return params


def _head_problems(heads: object, where: str) -> list[str]:
    found = []
    for name, raw in heads.items() if isinstance(heads, dict) else ():
        try:
            head_options(name, raw, f"{where}: heads.{name}")
        except ConfigError as error:
            found += str(error).splitlines()
    return found


def _cross_problems(params: Params, where: str) -> list[str]:
    found = []
    sections: dict[str, list[str]] = {
        name: list(getattr(params, name)) for name in ("datasets", "tasks", "source", "backbones", "heads")
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
        if dataset is not None and dataset.domain != domain:
            found.append(
                f"{where}: {place}: expected a data set of domain {domain}, found {name!r} of domain "
                f"{dataset.domain}: {why}"
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
    for check in (
        lambda: check_baselines(params.baselines, params.roles, where),
        lambda: check_k_shot_heads(params.compare.heads, sections["heads"], where),
    ):
        try:
            check()
        except ConfigError as error:
            found += str(error).splitlines()
    return found
