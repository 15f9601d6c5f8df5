"""Write scikit-learn's digits as PNG files: photos/{train,test}/{0..9}/, and labels of their own in ink.csv."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

HERE = Path(__file__).parent
digits = load_digits()
pixels = np.rint(digits.images * 255 / 16).astype(np.uint8)
rows = ["sample_id,ink"]
for i in range(600):
    name = f"{'test' if i % 5 == 0 else 'train'}/{digits.target[i]}/{i:04d}.png"
    (HERE / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[i]).save(HERE / "photos" / name)
    rows.append(f"{name},{pixels[i].mean():.3f}")
(HERE / "ink.csv").write_text("\n".join(rows) + "\n")
print(f"600 images in {(HERE / 'photos').name}")
