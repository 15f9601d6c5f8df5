"""The grammar of `transfer:`: a recipe is its defaults over the same keys."""

import pytest

from embedpipe.errors import ConfigError
from embedpipe.transfer.options import (
    RECIPES,
    TRANSFORMS,
    DirectOptions,
    LoadOptions,
    TrainedOptions,
    transfer_options,
)


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "surgical"])
def test_every_recipe_stands_with_nothing_but_its_name(name):
    options = transfer_options(name, None)
    assert options.recipe == name and isinstance(options, RECIPES[name].options)


def test_an_entry_of_another_name_says_its_recipe_and_may_change_each_default():
    options = transfer_options("gentle", {"recipe": "lp_ft", "learning_rate": [1e-5, 1e-4], "norms": "train"})
    assert isinstance(options, TrainedOptions)
    assert (options.head, options.learning_rate, options.norms) == ("selected", (1e-5, 1e-4), "train")


def test_one_rate_may_stand_alone_and_loading_may_be_partial():
    options = transfer_options("full", {"learning_rate": 0.1, "load": {"by": "prefix", "names": ["block1"]}})
    assert options.learning_rate == (0.1,)
    assert options.load == LoadOptions(by="prefix", names=["block1"])
    assert transfer_options("direct", {"estimate": ["eep", "hard"]}) == DirectOptions(
        recipe="direct", estimate=("eep", "hard")
    )


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("lpft", None, r"transfer\.lpft: unknown recipe 'lpft' \(did you mean 'lp_ft'\?\); known: direct,"),
        ("full", {"epoch": 3}, r"transfer\.full\.epoch: unknown key \(did you mean 'epochs'\?\)"),
        ("full", {"learning_rate": 0}, r"transfer\.full\.learning_rate.*greater than 0"),
        (
            "full",
            {"augment": {"HorizontalFlip": {}}},
            r"unknown transform 'HorizontalFlip' \(did you mean 'Random",
        ),
        ("full", {"gradual": True, "first": 0.1}, "gradual and first both say what learns when"),
        ("l2_sp", {"load": "none"}, "load: none leaves no source weights"),
        ("full", {"load": {"by": "prefix"}}, "by: prefix: expected some names, found none"),
        ("full", {"load": {"names": ["a"]}}, "by: name: expected no names, found a"),
        ("surgical", {}, r"transfer\.surgical\.layers: required, but missing"),
        ("full", {"k_shot": [0]}, "each is `all` or 1 or more"),
        ("full", [1], r"transfer\.full: expected a mapping of options, found \[1\]"),
    ],
)
def test_a_mistake_is_one_sentence_that_says_where(name, raw, said):
    with pytest.raises(ConfigError, match=said) as caught:
        transfer_options(name, raw, f"params.yaml: transfer.{name}")
    assert len(str(caught.value).splitlines()) == 1


def test_every_transform_exists_in_torchvision():
    from torchvision.transforms import v2

    assert all(hasattr(v2, name) for name in TRANSFORMS)
