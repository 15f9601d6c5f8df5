"""The code that docs/extend.md shows does what the page says."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import save_file

from embedpipe.backbones import BackboneOptions, load_backbone
from embedpipe.config import load_params

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "extend.md").read_text()


@pytest.fixture
def shown(tmp_path):
    """The files that the page shows, in a folder of a user's."""
    for name, code in re.findall(r"<!-- code: (\S+) -->\n```python\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / name).write_text(code)
    return tmp_path


def test_the_model_on_the_page_keeps_to_the_contract(shown, monkeypatch):
    monkeypatch.chdir(shown)
    scope = {}
    exec((shown / "test_my_models.py").read_text(), scope)
    scope["test_my_encoder_keeps_to_the_contract"]()


def test_the_backbone_on_the_page_opens(shown):
    block = re.search(r"```yaml\nbackbones:\n(.*?)```", PAGE, re.DOTALL).group(1)
    raw = YAML(typ="safe", pure=True).load(block)["mine"]
    monkey = BackboneOptions(**{**raw, "weights": None})
    made = load_backbone("mine", monkey, shown, source_dir=shown)
    (shown / "models").mkdir()
    state = {key: value.contiguous() for key, value in made.module.state_dict().items()}
    save_file(state, shown / "models/mine.safetensors")
    backbone = load_backbone("mine", BackboneOptions(**raw), shown, source_dir=shown)
    assert backbone.tap_shapes() == {"block1.gap": (32,), "block2.gap": (32,), "block2.grid2": (128,)}
    assert backbone.origin == {"source": "python:my_models:encoder(width=32)", "licence": "mit"}
    x = torch.stack([backbone.preprocess(Image.new("L", (5, 9)))])
    assert set(backbone.forward(backbone.tap_specs())(x)) == set(backbone.tap_shapes())


@pytest.mark.parametrize(
    "page", sorted(ROOT.glob("examples/*/params.yaml")), ids=lambda path: path.parent.name
)
def test_the_params_of_every_example_are_valid(page):
    assert load_params(page).backbones
