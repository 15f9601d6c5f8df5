"""Print the table of README.md: accuracy and F1 of spam on the test, by hidden state and labels, and TF-IDF's.

    python examples/text-table/by_layer.py

Reads what `embedpipe train` has written, after the test was opened: it looks at the test targets of every arm.
"""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline

from embedpipe.manifest.kshot import k_shot_indices
from embedpipe.manifest.table import Manifest
from embedpipe.sources.base import open_source

ROOT = Path(__file__).parent
SEED, DRAWS = 0, 10


def main() -> None:
    labels = pq.read_table(ROOT / "data/labels/sms.parquet")
    ids, names = (labels[column].to_pylist() for column in ("sample_id", "Label"))
    is_spam = {one: name == "spam" for one, name in zip(ids, names, strict=True)}
    table = pq.read_table(ROOT / "data/predictions/spam.parquet", filters=[("split", "==", "test")])
    arms, k_shots, draws = (np.array(table[name].to_pylist()) for name in ("arm", "k_shot", "draw"))
    truth = np.array([is_spam[i] for i in table["sample_id"].to_pylist()])
    found = np.array(table["scores"].to_pylist()).argmax(axis=1) == 1
    print(
        "| features | 10 labels a class: F1 | accuracy | all labels: F1 | accuracy |\n|---|---|---|---|---|"
    )
    for arm in sorted(set(arms[k_shots == 0])):
        if "@" in arm:
            cells = []
            for k in (10, 0):
                rows = [(arms == arm) & (k_shots == k) & (draws == draw) for draw in range(DRAWS if k else 1)]
                cells.append(_cell([(truth[row], found[row]) for row in rows if row.any()]))
            tap = arm.partition("/")[2]
            name = "all seven side by side" if ".." in tap else tap.removesuffix(".mean_tokens")
            print(f"| {name} | {' | '.join(cells)} |")
    print(f"| TF-IDF | {' | '.join(_tfidf(is_spam))} |")


def _cell(pairs: list[tuple[np.ndarray, np.ndarray]]) -> str:
    if not pairs:
        return "| "
    f1, accuracy = np.mean([[f1_score(y, p), (y == p).mean()] for y, p in pairs], axis=0)
    return f"{f1:.3f} | {accuracy:.4f}"


def _tfidf(is_spam: dict[str, bool]) -> list[str]:
    """The same samples, splits and draws, by words and pairs of words."""
    manifest = Manifest.read(ROOT / "data/manifests/sms/samples.parquet")
    source = open_source(manifest.source, ROOT)
    texts = np.array([source.read(locator) for locator in manifest.locators])
    y = np.array([is_spam[i] for i in manifest.sample_ids])
    train, test = (np.flatnonzero(manifest.splits == split) for split in ("train", "test"))
    cells = []
    for k in (10, 0):
        pairs = []
        for draw in range(DRAWS if k else 1):
            ids, codes = manifest.sample_ids[train].tolist(), y[train].astype(int)
            chosen = (
                k_shot_indices(ids, codes, k, draw=draw, seed=SEED, classes=("ham", "spam"))
                if k
                else slice(None)
            )
            words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
            model = make_pipeline(words, LogisticRegression(C=100.0, max_iter=2000))
            rows = train[chosen]
            pairs.append((y[test], model.fit(texts[rows], y[rows]).predict(texts[test])))
        cells.append(_cell(pairs))
    return cells


if __name__ == "__main__":
    main()
