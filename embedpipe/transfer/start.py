"""Which tap an arm reads, and the fitted head that it begins with: that of the selection, or of a draw's own labels.

Reads saved heads, published features and what training wrote. With k labels a class the head is fitted again on those
labels alone, with the hyperparameters that they chose, so that no arm sees more labels than its k.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedpipe.errors import ConfigError, DataError
from embedpipe.evaluate.arms import ALL, arm_dir, k_label, selected_arm
from embedpipe.evaluate.metrics import sign_of
from embedpipe.features.table import PublishedFeatures
from embedpipe.heads import registry
from embedpipe.heads.base import Head
from embedpipe.heads.module import head_module
from embedpipe.heads.rows import flat
from embedpipe.params import did_you_mean
from embedpipe.train.plan import Unit
from embedpipe.train.reading import read_parts, seen_by
from embedpipe.train.samples import Index, TaskSamples


@dataclass(frozen=True)
class Start:
    """A fitted head, and the taps that it reads.

    Attributes
    ----------
    unit : Unit
        Head and taps, as training planned them.
    head : Head
    note : str or None
        Which it is and why, where it is not the one that was selected.
    """

    unit: Unit
    head: Head
    note: str | None = None

    @property
    def num_features(self) -> int:
        """Columns of the taps, side by side."""
        return sum(math.prod(part.tap.shape) for part in self.unit.parts)


class Starts:
    """Starts of one task.

    Parameters
    ----------
    samples : TaskSamples
    stores : mapping of backbone to PublishedFeatures
    units : mapping of arm to Unit
        What training planned.
    scores : dict
        `data/scores/<T>.json`.
    chosen : dict
        The task's entry of the selection.
    heads_dir : Path
        `data/heads/<T>`.
    seed, memory_nbytes : int
        As training had them.
    """

    def __init__(
        self,
        samples: TaskSamples,
        stores: Mapping[str, PublishedFeatures],
        units: Mapping[str, Unit],
        scores: Mapping[str, Any],
        chosen: Mapping[str, Any],
        heads_dir: Path,
        *,
        seed: int,
        memory_nbytes: int,
    ) -> None:
        self._samples, self._stores, self._units = samples, stores, units
        self._chosen, self._heads_dir = chosen, heads_dir
        self._seed, self._memory_nbytes = seed, memory_nbytes
        self._metric = str(scores["metric"])
        self._rows = {(row["arm"], row["k_shot"]): row for row in scores["arms"]}
        self._known: dict[Any, Start] = {}

    def full(self, backbone: str, tap: str | None, where: str) -> Start:
        """The head that selection chose for a backbone, or the best one on a tap of it.

        Where that head cannot be trained on (nearest neighbours), or reads taps of other backbones too, the best
        that can be takes its place, and the note says so.

        Raises
        ------
        ConfigError
            If the backbone has no such tap, or no head that can be trained on.
        DataError
            If the selection or the heads are of another run.
        """
        key = (backbone, tap)
        if key not in self._known:
            arms = self._ranked_full(backbone, tap, where)
            self._known[key] = self._first_able(arms, self._load, where, backbone)
        return self._known[key]

    def few(self, backbone: str, tap: str | None, k: int, draw: int, labelled: Index, where: str) -> Start:
        """The head of one draw of k labels a class; raises as `full`."""
        key = (backbone, tap, k, draw)
        if key not in self._known:
            params = self._ranked_few(backbone, tap, k, draw, where)

            def fitted(arm: str) -> Head:
                return self._fit(arm, params[arm], labelled)

            self._known[key] = self._first_able(list(params), fitted, where, backbone)
        return self._known[key]

    def _ranked_full(self, backbone: str, tap: str | None, where: str) -> list[str]:
        entry = self._chosen["by_backbone"].get(backbone)
        if entry is None:
            known = list(self._chosen["by_backbone"])
            raise ConfigError(
                f"{where}: no head of backbone {backbone!r} was selected{did_you_mean(backbone, known)}; there are "
                f"heads of {', '.join(known)}"
            )
        self._check_tap(backbone, tap, where)
        sign = sign_of(self._metric)
        scored: list[tuple[float, int, str]] = []
        for (arm, k), row in self._rows.items():
            if k == "all" and row["backbone"] == backbone and tap in (None, row["tap"]):
                # what chose the candidates ranks the arms too: folds of the training samples, or validation
                judged = [one.get("inner", one["val"]) for one in row.get("candidates", ())]
                values = [metrics[self._metric] for metrics in judged]
                finite = [sign * value for value in values if value is not None]
                if finite:
                    scored.append((-max(finite), len(scored), arm))
        ranked = [arm for _, _, arm in sorted(scored)]
        first = [entry["arm"]] if tap is None else []
        return list(dict.fromkeys([*first, *ranked]))

    def _ranked_few(
        self, backbone: str, tap: str | None, k: int, draw: int, where: str
    ) -> dict[str, dict[str, Any]]:
        """Hyperparameters of each arm in one draw, the chosen arm first, then by the draw's own folds."""
        selected = self._rows.get((selected_arm(backbone), k))
        if selected is None:
            raise ConfigError(
                f"{where}.k_shot: {k}: no head of {backbone!r} was trained at {k} labels a class; add {k} to "
                "compare.k_shot"
            )
        self._check_tap(backbone, tap, where)
        if draw >= len(selected["per_draw"]):
            raise ConfigError(
                f"{where}.draws: expected at most the {len(selected['per_draw'])} draws that heads were trained on, "
                f"found {draw + 1}; raise compare.draws"
            )
        sign = sign_of(self._metric)
        scored: list[tuple[float, int, str]] = []
        for (arm, at), row in self._rows.items():
            if at == k and row["backbone"] == backbone and arm in self._units and tap in (None, row["tap"]):
                inner = row["per_draw"][draw]["inner"]
                value = None if inner is None else inner[self._metric]
                scored.append((math.inf if value is None else -sign * value, len(scored), arm))
        ranked = [arm for _, _, arm in sorted(scored)]
        first = [selected["per_draw"][draw]["arm"]] if tap is None else []
        return {
            arm: self._rows[arm, k]["per_draw"][draw]["params"] for arm in dict.fromkeys([*first, *ranked])
        }

    def _check_tap(self, backbone: str, tap: str | None, where: str) -> None:
        known = list(self._stores[backbone].taps)
        if tap is not None and tap not in known:
            raise ConfigError(
                f"{where}.tap: {backbone!r} has no tap {tap!r}{did_you_mean(tap, known)}; it has {', '.join(known)}"
            )

    def _first_able(self, arms: list[str], make: Any, where: str, backbone: str) -> Start:
        why = ""
        for arm in arms:
            unit = self._unit(arm)
            if {part.backbone for part in unit.parts} != {backbone}:
                why = why or f"{arm} reads other backbones too"
                continue
            head = make(arm)
            try:
                head_module(head)
            except ConfigError:
                why = why or f"{arm} cannot be trained further"
                continue
            return Start(unit, head, f"{arm}: {why}" if why else None)
        raise ConfigError(
            f"{where}: no head of {backbone!r} on its taps can be trained further"
            f"{f' ({why})' if why else ''}; add a linear family, such as logistic, under `heads:`"
        )

    def _unit(self, arm: str) -> Unit:
        if arm not in self._units:
            raise DataError(
                f"task {self._samples.task!r}: arm {arm!r} was trained under another params.yaml; "
                f"run `embedpipe train {self._samples.task}`"
            )
        return self._units[arm]

    def _load(self, arm: str) -> Head:
        folder = self._heads_dir / arm_dir(arm)
        card = folder / "arm.json"
        if not card.is_file():
            raise DataError(
                f"{folder}: expected the saved head of {arm!r}, found none; run `embedpipe train {self._samples.task}`"
            )
        classes = json.loads(card.read_text(encoding="utf-8"))["classes"]
        if tuple(classes) != self._samples.classes:
            raise DataError(
                f"{folder}: expected a head of {self._samples.spec}, found one of {len(classes)} classes; "
                f"run `embedpipe train {self._samples.task}`"
            )
        return registry.load_head(folder)

    def _fit(self, arm: str, params: Mapping[str, Any], labelled: Index) -> Head:
        unit = self._unit(arm)
        rows = seen_by(unit, read_parts(self._stores, unit.parts, self._samples.keys, self._memory_nbytes))
        family = registry.head_class(unit.family, self._samples.kind)
        chosen = next((one for one in unit.few_shot if _same(one, params)), dict(params))
        taken = rows.take(labelled)
        weighted = registry.takes_weights(unit.family, self._samples.kind)
        return registry.fit_grid(
            unit.family,
            [{**chosen, **unit.fixed}],
            taken if family.maps else flat(taken),
            self._samples.truth[labelled],
            kind=self._samples.kind,
            seed=self._seed,
            sample_weight=self._samples.weight_at(labelled) if weighted else None,
            groups=self._samples.groups[labelled],
            memory_nbytes=self._memory_nbytes,
        )[0]


def _same(candidate: Mapping[str, Any], params: Mapping[str, Any]) -> bool:
    """Whether a candidate is the one that a scores file holds: there tuples are lists."""
    return bool(json.loads(json.dumps(candidate)) == json.loads(json.dumps(dict(params))))


def labels_text(k_shot: int) -> str:
    """How many labels an arm is trained on, in words."""
    return "all labels" if k_shot == ALL else f"{k_label(k_shot)} labels a class"
