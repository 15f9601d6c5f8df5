"""Maps from source classes to labels, and LEEP, against sums written out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedpipe.errors import ConfigError
from embedpipe.transfer.direct import expected_conditional, given_map, hard_assignment, leep, mapped


def drawn(seed, num=30, num_source=4, num_classes=3):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(num_source), size=num), rng.integers(num_classes, size=num)


def leep_by_hand(source, codes, num_classes):
    """Nguyen et al. 2020, steps 1 to 3, as three loops."""
    num, num_source = source.shape
    joint = [[sum(source[i, z] for i in range(num) if codes[i] == y) / num for z in range(num_source)]
             for y in range(num_classes)]  # fmt: skip
    marginal = [sum(joint[y][z] for y in range(num_classes)) for z in range(num_source)]
    total = 0.0
    for i in range(num):
        total += math.log(sum(joint[codes[i]][z] / marginal[z] * source[i, z] for z in range(num_source)))
    return total / num


@pytest.mark.parametrize("seed", range(5))
def test_leep_is_that_of_the_paper(seed):
    source, codes = drawn(seed)
    assert leep(source, codes, 3) == pytest.approx(leep_by_hand(source, codes, 3), abs=1e-12)


def test_leep_of_a_classifier_that_knows_the_labels_is_nought():
    codes = np.array([0, 1, 2, 1, 0])
    assert leep(np.eye(3)[codes][:, [2, 0, 1]], codes, 3) == pytest.approx(0.0, abs=1e-12)


@given(st.integers(0, 10_000))
def test_leep_is_bounded_by_nought_and_by_negative_conditional_entropy(seed):
    """At least the NCE of the most likely source classes plus their mean log likelihood (the paper's property 2)."""
    source, codes = drawn(seed, num=20)
    found = leep(source, codes, 3)
    likely = source.argmax(axis=1)
    nce = 0.0
    for i in range(20):
        same = likely == likely[i]
        nce += math.log((codes[same] == codes[i]).mean()) / 20
    assert found <= 1e-12
    assert found >= nce + np.log(source[np.arange(20), likely]).mean() - 1e-9


@given(st.integers(0, 10_000))
def test_mapped_probabilities_sum_to_one_and_rows_of_the_map_too(seed):
    source, codes = drawn(seed)
    conditional = expected_conditional(source, codes, 3)
    np.testing.assert_allclose(conditional.sum(axis=1), 1.0)
    for assigned in (conditional, hard_assignment(source, codes, 3)):
        np.testing.assert_allclose(mapped(source, assigned).sum(axis=1), 1.0)


def test_a_source_class_that_is_never_given_says_nothing():
    codes = np.array([0, 0, 1])
    source = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(expected_conditional(source, codes, 2)[2], [2 / 3, 1 / 3])
    assert hard_assignment(source, codes, 2)[2].sum() == 0
    np.testing.assert_allclose(mapped(np.array([[0.0, 0.0, 1.0]]), hard_assignment(source, codes, 2)), 0.5)


def test_a_frequent_label_does_not_take_every_source_class():
    codes = np.array([0] * 9 + [1])
    source = np.array([[0.5, 0.5]] * 9 + [[0.2, 0.8]])
    assert hard_assignment(source, codes, 2).argmax(axis=1).tolist() == [0, 1]


def test_a_given_map_is_taken_as_it_is_written():
    found = given_map({"O": "0", "l": "1"}, ["O", "l", "x"], ["0", "1"], "transfer.direct")
    assert found.tolist() == [[1, 0], [0, 1], [0, 0]]


def test_a_map_of_names_that_do_not_exist_lists_each():
    with pytest.raises(ConfigError) as caught:
        given_map({"O0": "0", "l": "one"}, ["O", "l"], ["0", "1"], "transfer.direct")
    first, second = str(caught.value).splitlines()
    assert first.startswith("transfer.direct.map: no source class is named 'O0'")
    assert second.startswith("transfer.direct.map: no label is named 'one'")
