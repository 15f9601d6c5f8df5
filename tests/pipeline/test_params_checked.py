"""What params.yaml may not say, though each section alone is right."""

import projects
import pytest

from embedpipe.config import load_params
from embedpipe.errors import ConfigError

LETTERS = {"domain": "source", "source": {"kind": "glyphs"}}


@pytest.fixture
def refused(tmp_path):
    """Change the small project's params and return what is said about them."""

    def refuse(change):
        params = projects.small_params()
        change(params)
        projects.write_params(tmp_path, params)
        with pytest.raises(ConfigError) as caught:
            load_params(tmp_path / "params.yaml")
        return str(caught.value)

    return refuse


def test_a_source_model_may_not_learn_from_what_heads_are_judged_on(refused):
    def change(params):
        params["source"] = {"own": {"model": "glyphnet", "on": "shapes", "labels": "label"}}

    assert refused(change) == (
        "params.yaml: source.own.on: expected a data set of domain source, found 'shapes' of domain target: a model "
        "trained on it has seen what heads are judged on; train it on other data, or set "
        "datasets.shapes.domain: source"
    )


def test_a_task_is_on_the_target_domain(refused):
    def change(params):
        params["datasets"]["letters"] = LETTERS
        params["tasks"]["letter"] = {"on": "letters", "labels": "letter"}

    assert refused(change) == (
        "params.yaml: tasks.letter.on: expected a data set of domain target, found 'letters' of domain source: no "
        "backbone embeds the source domain"
    )
