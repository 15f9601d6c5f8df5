"""Train a ResNet-18 behind the features of a frozen AlexNet.

    python examples/alexnet_to_resnet18.py                     # random images: shows that it runs, in seconds
    python examples/alexnet_to_resnet18.py photos --alexnet alexnet.safetensors --resnet resnet18.safetensors

The folder holds one folder a class, or `train/` and `val/` above them. AlexNet's feature maps are computed once, into a
store; a 1×1 convolution takes them to the maps that ResNet-18 has before its last stage, and both are trained.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split
from torchvision.datasets import ImageFolder
from torchvision.models import alexnet, resnet18
from torchvision.transforms import v2

from embedpipe.backbones.weights import read_state_dict
from embedpipe.tlfe import TLFE

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def random_images(num: int, image_px: int) -> tuple[dict[str, Dataset], int]:
    """Noise of two classes, one of them brighter."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.arange(num) % 2
    x = torch.randn((num, 3, image_px, image_px), generator=generator) + 2.0 * codes[:, None, None, None]
    split = num * 3 // 4
    return {
        "train": TensorDataset(x[:split], codes[:split]),
        "val": TensorDataset(x[split:], codes[split:]),
    }, 2


def photographs(folder: Path, image_px: int) -> tuple[dict[str, Dataset], int]:
    """Images in a folder a class; a fifth of them is held out where no `val` folder is given."""
    steps = v2.Compose(
        [
            v2.Resize(image_px),
            v2.CenterCrop(image_px),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    if (folder / "train").is_dir() and (folder / "val").is_dir():
        found = {name: ImageFolder(str(folder / name), steps) for name in ("train", "val")}
        return dict(found), len(found["train"].classes)
    whole = ImageFolder(str(folder), steps)
    num_val = max(1, len(whole) // 5)
    lengths = [len(whole) - num_val, num_val]
    train, val = random_split(whole, lengths, torch.Generator().manual_seed(0))
    return {"train": train, "val": val}, len(whole.classes)


def main(arguments: list[str] | None = None) -> TLFE:
    """Run the example; gives what was trained."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, help="photographs; without it random images are made")
    parser.add_argument("--alexnet", type=Path, help="weights of the source; without them it is random")
    parser.add_argument("--resnet", type=Path, help="weights of the target; without them it is random")
    parser.add_argument(
        "--image-px", type=int, help="side of the images; default: 224, or 64 for random ones"
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--store", type=Path, help="where features are kept for the next run; default: nowhere"
    )
    options = parser.parse_args(arguments)

    image_px = options.image_px or (224 if options.folder else 64)
    datasets, num_classes = (
        photographs(options.folder, image_px) if options.folder else random_images(64, image_px)
    )
    torch.manual_seed(0)
    source, target = alexnet(), resnet18()
    if options.alexnet is not None:
        source.load_state_dict(read_state_dict(options.alexnet, "--alexnet"))
    if options.resnet is not None:
        target.load_state_dict(read_state_dict(options.resnet, "--resnet"))
    target.fc = torch.nn.Linear(target.fc.in_features, num_classes)

    tlfe = TLFE(
        source_model=source,
        target_model=target,
        transfer_layers=["features"],
        device=options.device,
        store=options.store,
    )
    loaders = {
        name: DataLoader(one, batch_size=options.batch, shuffle=name == "train")
        for name, one in datasets.items()
    }
    tlfe.fit(loaders, epochs=options.epochs, verbose=True, save_best_only=True, batch=options.batch)
    print(f"AlexNet's features at {tlfe.target_at_}: accuracy {tlfe.score(loaders['val']):.3f} on val")
    return tlfe


if __name__ == "__main__":
    main()
