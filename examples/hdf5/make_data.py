"""Write scikit-learn's digits into digits.h5: images, and a compound data set that says of each what it is."""

from pathlib import Path

import h5py
import numpy as np
from sklearn.datasets import load_digits

HERE = Path(__file__).parent
digits = load_digits()
about = np.zeros(len(digits.target), dtype=[("uid", h5py.string_dtype()), ("digit", "i4"), ("writer", "i4")])
about["uid"] = [f"scan-{i:05d}" for i in range(len(about))]
about["digit"] = digits.target
about["writer"] = np.arange(len(about)) // 60  # neighbours were written by one hand
with h5py.File(HERE / "digits.h5", "w") as file:
    # floats of 0 to 1, channels first, compressed: none of it needs to be said in params.yaml
    images = (digits.images / 16).astype(np.float32)[:, None]
    file.create_dataset("scans/images", data=images, chunks=(128, 1, 8, 8), compression="gzip")
    file["scans/about"] = about
print(f"{len(about)} images in digits.h5")
