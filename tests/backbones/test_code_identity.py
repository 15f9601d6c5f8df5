"""Code that comes with a backbone is part of its store's name: other code, other store; other words, the same."""

import pytest
import tiny_models
import torch
from torch import nn

from embedpipe.backbones.code import code_digest
from embedpipe.backbones.programs import graph_digest

MODULE = '''
"""A model."""
import torch
from helper import SCALE


def factory():
    """Make it."""
    return torch.nn.Linear(2, 3)  # three
'''
HELPER = "SCALE = 0.5\n"


def digest_of(tmp_path, module=MODULE, helper=HELPER):
    (tmp_path / "mine.py").write_text(module)
    (tmp_path / "helper.py").write_text(helper)
    return code_digest("mine", tmp_path)


@pytest.mark.parametrize(
    ("module", "helper"),
    [
        (MODULE.replace("# three", "# of three columns"), HELPER),
        (MODULE.replace("A model", "The model").replace("Make it", "Make one"), HELPER),
        (MODULE.replace("torch.nn.Linear(2, 3)", "torch.nn.Linear(\n        2,\n        3,\n    )"), HELPER),
        (MODULE, "# half\n\nSCALE=.5"),
    ],
)
def test_comments_docstrings_and_layout_are_no_other_code(tmp_path, module, helper):
    assert digest_of(tmp_path, module, helper) == digest_of(tmp_path)


@pytest.mark.parametrize(
    ("module", "helper"),
    [
        (MODULE.replace("(2, 3)", "(2, 3, bias=False)"), HELPER),
        (MODULE.replace("(2, 3)", "(2, 3.0)"), HELPER),
        (MODULE, "SCALE = 0.25\n"),
        (MODULE, 'SCALE = "0.5"\n'),
        (MODULE + "\n\ndef (:", HELPER),
    ],
)
def test_other_values_calls_and_imported_files_are(tmp_path, module, helper):
    assert digest_of(tmp_path, module, helper) != digest_of(tmp_path)


def test_the_name_of_a_store_has_the_code_of_a_module_and_not_its_place(make, tmp_path):
    tiny_models.make_own(tmp_path)
    options = {"model": "python:own_models:colours", "weights": None, "taps": {"blocks": ["gap"]}}
    before = make(**options).architecture
    assert before.startswith("python:own_models:colours:code=")
    path = tmp_path / "own_models.py"
    path.write_text(path.read_text() + "\n# nothing\n")
    assert make(**options).architecture == before
    path.write_text(path.read_text().replace(".float() / 255", ".float() / 256"))
    after = make(**options)
    assert after.architecture != before and after.origin["source"] == "python:own_models:colours"


def exported(path, last, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), last).eval()
    shapes = {"input": {0: torch.export.Dim("batch")}}
    torch.export.save(torch.export.export(model, (torch.rand(2, 3, 16, 16),), dynamic_shapes=shapes), path)
    return path


def test_a_program_is_named_by_its_graph_and_not_by_its_weights_or_the_example_it_was_traced_with(tmp_path):
    first = graph_digest(exported(tmp_path / "a.pt2", nn.ReLU()))
    assert graph_digest(exported(tmp_path / "b.pt2", nn.ReLU(), seed=1)) == first
    assert graph_digest(exported(tmp_path / "c.pt2", nn.GELU())) != first


def test_programs_of_other_graphs_have_other_stores_though_weights_and_path_are_the_same(make, tmp_path):
    found = []
    for last in (nn.ReLU(), nn.GELU()):
        exported(tmp_path / "net.pt2", last)
        preprocess = {"crop_px": 16, "mean": [0.0] * 3, "std": [1.0] * 3}
        found.append(make(model="pt2:net.pt2", weights=None, taps={"last": ["gap"]}, preprocess=preprocess))
    assert found[0].weights_digest == found[1].weights_digest
    assert found[0].architecture != found[1].architecture
    assert found[0].architecture.startswith("pt2:net:graph=")
