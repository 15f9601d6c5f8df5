"""Draw grey circles and squares, each with a caption that tells its colour: neither alone tells which of four it is."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

HERE = Path(__file__).parent
COLOURS = {"red": ["red", "crimson", "scarlet"], "blue": ["blue", "navy", "azure"]}
PHRASES = [
    "a {} thing on a dark ground",
    "something {} was photographed",
    "{}, seen from above",
    "we saw it: {}",
]

random = np.random.default_rng(0)
(HERE / "images").mkdir(exist_ok=True)
rows = ["uid,file,caption,kind"]
for i in range(400):
    shape, colour = ("circle", "square")[i % 2], ("red", "blue")[i // 2 % 2]
    image = Image.fromarray(random.integers(0, 60, (32, 32), dtype=np.uint8))
    x, y, r = (int(v) for v in random.integers((13, 13, 7), (20, 20, 11)))
    draw = ImageDraw.Draw(image)
    (draw.ellipse if shape == "circle" else draw.rectangle)((x - r, y - r, x + r, y + r), fill=200)
    image.save(HERE / "images" / f"{i:03d}.png")
    caption = str(random.choice(PHRASES)).format(random.choice(COLOURS[colour]))
    rows.append(f'{i:03d},images/{i:03d}.png,"{caption}",{colour} {shape}')
(HERE / "things.csv").write_text("\n".join(rows) + "\n")
print("400 rows in things.csv")
