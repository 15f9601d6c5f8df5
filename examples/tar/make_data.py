"""Write scikit-learn's digits as WebDataset shards of 300: 00042.png, 00042.cls and 00042.json of each sample.

python make_data.py [number of shards, 4 by default]
"""

import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

HERE = Path(__file__).parent
NUM_SHARDS = int(sys.argv[1]) if len(sys.argv) > 1 else 4
digits = load_digits()
pixels = np.rint(digits.images * 255 / 16).astype(np.uint8)


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


(HERE / "shards").mkdir(exist_ok=True)
for shard in range(NUM_SHARDS):
    path = HERE / "shards" / f"digits-{shard:03d}.tar"
    if path.exists():
        continue
    with tarfile.open(path, "w") as tar:
        for i in range(300 * shard, min(300 * shard + 300, len(pixels))):
            file = io.BytesIO()
            Image.fromarray(pixels[i]).save(file, "PNG")
            add(tar, f"{i:05d}.png", file.getvalue())
            add(tar, f"{i:05d}.cls", str(digits.target[i]).encode())
            add(
                tar,
                f"{i:05d}.json",
                json.dumps({"parity": "odd" if digits.target[i] % 2 else "even"}).encode(),
            )
print(f"{NUM_SHARDS} shards in {HERE / 'shards'}".replace(str(HERE) + "/", ""))
