"""Small models with random weights, written as transformers and timm write theirs: nothing is fetched."""

from __future__ import annotations

import json
from pathlib import Path

import torch

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "mat",
    "free",
    "prize",
    "now",
    "call",
    "win",
    "text",
    "me",
    "home",
    "later",
    "see",
    "you",
    "at",
    "noon",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def make_bert(
    folder: Path, *, num_layers: int = 3, max_length: int = 48, seed: int = 0, safe: bool = True
) -> Path:
    """A BERT of width 16 with a tokenizer of whole words; some words are cut into letters."""
    import transformers

    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS) + 26, hidden_size=16, num_hidden_layers=num_layers, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=max_length,
    )  # fmt: skip
    model = transformers.BertModel(config).eval()
    model.save_pretrained(folder)
    if not safe:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    make_tokenizer(folder, max_length)
    return folder


def make_tokenizer(folder: Path, max_length: int) -> None:
    """A fast tokenizer of `WORDS`, letters and special tokens."""
    import tokenizers
    import transformers

    vocabulary = [*SPECIAL, *WORDS, *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    inner.normalizer = tokenizers.normalizers.Lowercase()
    inner.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=max_length, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip
    tokenizer.save_pretrained(folder)


def make_vit(folder: Path, *, kind: str = "vit", image_px: int = 32) -> Path:
    """A vision transformer of width 16 with its image processor: ``vit``, ``dinov2_with_registers``, ``vit_mae``."""
    import transformers

    torch.manual_seed(0)
    common = dict(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=image_px,
        patch_size=8,
    )  # fmt: skip
    config_class, model_class, extra = {
        "vit": (transformers.ViTConfig, transformers.ViTModel, {}),
        "vit_mae": (transformers.ViTMAEConfig, transformers.ViTMAEModel, {"mask_ratio": 0.75}),
        "dinov2_with_registers": (
            transformers.Dinov2WithRegistersConfig,
            transformers.Dinov2WithRegistersModel,
            {"num_register_tokens": 3},
        ),
    }[kind]
    model_class(config_class(**common, **extra)).save_pretrained(folder)
    processor = {
        "do_resize": True, "size": {"height": image_px, "width": image_px}, "resample": 3, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4],
        "image_processor_type": "ViTImageProcessor",
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


OWN_MODULE = '''
"""A user's own models, as params.yaml names them."""
import torch
from torch import nn
from torchvision.transforms.v2 import functional as F


class Colours(nn.Module):
    """Average colours of an image, mixed."""

    def __init__(self, width=4):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.block1 = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))

    def preprocess(self, image):
        return F.pil_to_tensor(image.convert("RGB").resize((8, 8))).float() / 255

    def describe(self):
        return {"modality": "image", "preprocessing": "8 px, 0 to 1", "licence": "mit", "blocks": ["stem", "block1"]}

    def forward(self, x):
        return self.block1(self.stem(x))


class Letters(nn.Module):
    """A bag of letters with a layer that mixes neighbours, behind a mask."""

    def __init__(self):
        super().__init__()
        self.letters = nn.Embedding(128, 6)
        self.block1 = nn.Linear(6, 5)

    def preprocess(self, text):
        return torch.tensor([ord(c) % 128 for c in text[:32]])

    def describe(self):
        return {"modality": "text", "preprocessing": "letters", "max_length": 32}

    def forward(self, ids, mask):
        return self.block1(self.letters(ids)) * mask[:, :, None]


class Neighbours(Colours):
    """Not a backbone: a row depends on the batch it stands in."""

    def forward(self, x):
        return self.block1(self.stem(x - x.mean(dim=0)))


def colours(width=4):
    return Colours(width)


def letters():
    return Letters()


def neighbours():
    return Neighbours()


def number():
    return 3


def half():
    return nn.Linear(2, 2)


def fails():
    raise RuntimeError("out of cheese")
'''


def make_own(folder: Path) -> Path:
    """A package beside params.yaml."""
    (folder / "own_models.py").write_text(OWN_MODULE)
    return folder


def make_program(path: Path, *, dynamic: bool = True) -> Path:
    """A program of torch.export: a small CNN over images of 16 px."""
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("block1", nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()))
    model.add_module("block2", nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU()))
    shapes = {"input": {0: torch.export.Dim("batch")}} if dynamic else None
    program = torch.export.export(model.eval(), (torch.zeros(2, 3, 16, 16),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path
