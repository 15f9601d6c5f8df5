"""params.yaml is read strictly, and everything wrong with it is said at once, in the user's words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from embedpipe.errors import ConfigError
from embedpipe.params import StrictModel, did_you_mean, load_yaml, validate


class Circle(StrictModel):
    kind: Literal["circle"]
    radius: float
    fill: Literal["solid", "dashed"] = "solid"


class Square(StrictModel):
    kind: Literal["square"]
    side: float


Shape = Annotated[Circle | Square, Field(discriminator="kind")]


class Drawing(StrictModel):
    shape: Shape
    scale: float = 1.0


class Range(StrictModel):
    low: float = 0.0
    high: float = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


class Project(StrictModel):
    seed: int = 0
    drawings: dict[str, Drawing] = Field(default_factory=dict)
    shapes: list[Shape] = Field(default_factory=list)
    shots: list[int | Literal["all"]] = Field(default_factory=list)
    limits: Range | None = None


def said(raw: object, where: str = "params.yaml") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        validate(Project, raw, where)
    return str(caught.value).splitlines()


def test_every_problem_is_in_one_message() -> None:
    raw = {
        "sead": 1,
        "drawings": {"a": {"shape": {"kind": "circle", "radious": 2}}, "b": {"scale": "big"}},
        "limits": {"low": 2},
    }
    assert said(raw) == [
        "params.yaml: drawings.a.shape.radius: required, but missing",
        "params.yaml: drawings.a.shape.radious: unknown key (did you mean 'radius'?); "
        "known keys: fill, kind, radius",
        "params.yaml: drawings.b.shape: required, but missing",
        "params.yaml: drawings.b.scale: input should be a valid number, unable to parse string as a number; "
        "found 'big'",
        "params.yaml: limits: low 2.0 is above high 1.0",
        "params.yaml: sead: unknown key (did you mean 'seed'?); "
        "known keys: drawings, limits, seed, shapes, shots",
    ]


def test_near_names_come_from_the_member_of_the_union_that_the_tag_names() -> None:
    (line,) = said({"shapes": [{"kind": "square", "side": 1, "radius": 1}]})
    assert line == "params.yaml: shapes.0.radius: unknown key; known keys: kind, side"


def test_unknown_tag_lists_the_tags() -> None:
    (line,) = said({"drawings": {"a": {"shape": {"kind": "circel"}}}})
    assert line == (
        "params.yaml: drawings.a.shape.kind: unknown 'circel' (did you mean 'circle'?); known: circle, square"
    )


def test_missing_tag_lists_the_tags() -> None:
    (line,) = said({"drawings": {"a": {"shape": {}}}})
    assert line == "params.yaml: drawings.a.shape.kind: required, but missing; known: circle, square"


def test_alternatives_of_a_union_are_one_line() -> None:
    (line,) = said({"shots": [5, "al"]})
    assert line == (
        "params.yaml: shots.1: input should be a valid integer, unable to parse string as an integer "
        "or 'all' (did you mean 'all'?); found 'al'"
    )


def test_a_choice_suggests_the_near_one() -> None:
    (line,) = said({"shapes": [{"kind": "circle", "radius": 1, "fill": "sold"}]})
    assert line == (
        "params.yaml: shapes.0.fill: input should be 'solid' or 'dashed' (did you mean 'solid'?); "
        "found 'sold'"
    )


def test_a_scalar_in_place_of_a_section_is_called_that() -> None:
    (line,) = said({"drawings": {"a": 3}})
    assert line == "params.yaml: drawings.a: input should be a mapping of keys to values; found 3"


def test_a_section_is_named_with_a_dot_after_its_place() -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Drawing, {"shape": {"kind": "square", "side": 1}, "scal": 2}, "params.yaml: drawings.a")
    assert str(caught.value).startswith("params.yaml: drawings.a.scal: unknown key (did you mean 'scale'?)")


def test_did_you_mean_is_silent_without_a_near_name() -> None:
    assert did_you_mean("zebra", ["circle", "square"]) == ""


def test_exponents_without_a_point_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("a: 1e-3\nb: [1e5, -2E+2, 1.5e3]\nc: 1e-3x\nd: '1e-3'\n")
    assert load_yaml(path) == {"a": 0.001, "b": [1e5, -200.0, 1500.0], "c": "1e-3x", "d": "1e-3"}


def test_a_key_written_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("seed: 0\ntasks:\n  a: {on: x}\n  a: {on: y}\n")
    with pytest.raises(ConfigError, match=r'line 4: not valid YAML: found duplicate key "a"'):
        load_yaml(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "not valid YAML"),
        ("- 1\n", "expected a mapping of sections, found list"),
        ("", "found NoneType"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_yaml(path)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file; run from the folder that holds params\.yaml"):
        load_yaml(tmp_path / "params.yaml")


def test_yaml_is_read_as_dvc_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("tasks: {a: {on: x, flag: yes}}\nC: 1e-3\n")
    assert load_yaml(path) == {"tasks": {"a": {"on": "x", "flag": "yes"}}, "C": 0.001}
