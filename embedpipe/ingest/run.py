"""List a data set: its samples with key, group and split, its labels, and what could not be read.

Reads a source; writes `samples.parquet`, `quarantine.csv` and the label table, the same bytes whenever
the same samples are there. Files that have not changed since the last run are not opened.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedpipe.errors import ConfigError, DataError, TooManyFailed
from embedpipe.ingest.feed import read_feed
from embedpipe.ingest.labels import column_of, text_of, write_labels
from embedpipe.ingest.memory import Memory, seen_now
from embedpipe.ingest.options import DatasetOptions, DomainOptions, SplitOptions
from embedpipe.manifest import splits as splitting
from embedpipe.manifest.files import write_bytes
from embedpipe.manifest.table import Manifest
from embedpipe.progress import Progress, silent
from embedpipe.sources.base import CONTENT, SPOOL, Fed, Scanned, Seen, Source, open_source
from embedpipe.sources.places import locate
from embedpipe.spec import canonical_json

GIVEN_NAMES = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
    "excluded": "excluded",
}  # fmt: skip


@dataclass(frozen=True)
class IngestSummary:
    """What ingest found, for the terminal and for `--json`.

    Attributes
    ----------
    dataset : str
    num_samples : int
        Readable samples, those of the manifest.
    num_failed : int
        Unreadable ones, listed in quarantine.csv.
    num_looked_at : int
        Samples that were opened; the others had not changed.
    splits : dict of str to int
        Samples by split.
    notes : list of str
        What the reader should know, one sentence each.
    """

    dataset: str
    num_samples: int
    num_failed: int
    num_looked_at: int
    splits: dict[str, int]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def ingest(
    dataset: str,
    options: DatasetOptions,
    *,
    seed: int,
    root: Path,
    out_dir: Path,
    labels_path: Path,
    cache_dir: Path,
    progress: Progress = silent,
) -> IngestSummary:
    """List one data set.

    Parameters
    ----------
    dataset : str
        Its name in params.yaml.
    seed : int
        The run's seed: varies validation against train.
    root : Path
        The folder of params.yaml.
    out_dir : Path
        Gets samples.parquet and quarantine.csv.
    labels_path : Path
        Gets the label table.
    cache_dir : Path
        Holds what is remembered between runs.

    Raises
    ------
    DataError
        If the data set is missing, empty or contradictory.
    TooManyFailed
        If a larger share than `max_failed` is unreadable; quarantine.csv is written all the same.
    """
    where = f"datasets.{dataset}"
    try:
        source = open_source(
            options.source,
            root,
            id_column=options.id,
            version=options.version,
            spool=cache_dir / SPOOL,
            spooling=options.spool,
        )
    except ConfigError as error:
        raise ConfigError(f"params.yaml: {where}.{error}") from error
    described = options.source.model_dump(mode="json")
    identity = {"source": described, "id": options.id, "version": options.version, "spool": options.spool}
    memory = Memory(cache_dir, canonical_json(identity), root)
    known = memory.recall()
    scanned: list[Scanned] = []
    whole = False
    try:
        scan, notes = _scan(source, options.feed, root, memory, known, progress)
        for sample in scan:
            scanned.append(sample)
        whole = True
    except DataError as error:
        raise type(error)(f"{where}: {error}") from error
    finally:
        if scanned:  # interrupted, the work so far is kept beside what was known
            memory.keep({**({} if whole else known), **seen_now(scanned)}, whole=whole)

    failed = [sample for sample in scanned if sample.key is None]
    samples = [sample for sample in scanned if sample.key is not None]
    quarantine_path = out_dir / "quarantine.csv"
    _write_quarantine(quarantine_path, failed)
    _refuse_too_many(where, options.max_failed, failed, len(scanned), quarantine_path)

    keys = [sample.key for sample in samples if sample.key is not None]
    user_groups = _user_groups(where, options.group, samples)
    domains = _domains(where, options.domain, samples)
    splits, more = _split(where, options.split, samples, user_groups, keys, domains, seed)
    notes += more
    manifest = Manifest.from_rows(
        dataset,
        described,
        source.modalities[0],
        sample_ids=[sample.sample_id for sample in samples],
        keys=keys,
        domain=domains,
        groups=splitting.merge_groups(user_groups, keys),
        splits=splits,
        locators=[sample.locator for sample in samples],
        also={
            modality: (
                [sample.also[modality][0] for sample in samples],
                [s.also[modality][1] for s in samples],
            )
            for modality in source.modalities[1:]
        },
    )
    manifest.write(out_dir / "samples.parquet")
    write_labels(labels_path, [s.sample_id for s in scanned], [s.labels for s in scanned])
    return IngestSummary(
        dataset=dataset,
        num_samples=len(samples),
        num_failed=len(failed),
        num_looked_at=sum(_is_new(sample, known) for sample in scanned) if options.version == CONTENT else 0,
        splits=dict(Counter(splits)),
        notes=[*source.notes(), *notes, *_shared_notes(manifest), *_quarantine_note(failed, quarantine_path)],
    )


def _scan(
    source: Source, feed: str | None, root: Path, memory: Memory, known: dict[str, Seen], progress: Progress
) -> tuple[Iterator[Scanned], list[str]]:
    """The samples, listed or as a feed of changes leaves them; and what to say about it."""
    if feed is None:
        return source.scan(known, progress), []
    if not isinstance(source, Fed):
        raise DataError(
            "feed: expected a source that lists files (folder), found one that is listed by a table of its own"
        )
    changes = read_feed(locate(root, feed))
    if not known or not memory.is_whole():
        return source.scan(known, progress), [
            "feed: nothing is remembered yet, so everything was listed once"
        ]
    return source.scan_changes(changes, known, progress), []


def _domains(where: str, options: str | DomainOptions, samples: Sequence[Scanned]) -> list[str]:
    if isinstance(options, str):
        return [options] * len(samples)
    values = column_of([sample.labels for sample in samples], options.column, f"{where}.domain.column")
    names = {text_of(value) for value in options.source}
    domains = ["source" if text_of(value) in names else "target" for value in values]
    if len(set(domains)) == 1:
        some = ", ".join(sorted({str(text_of(value)) for value in values})[:5])
        raise DataError(
            f"{where}.domain: expected samples of both domains, found {domains[0]} alone (column {options.column!r} "
            f"holds {some}); correct `source:`, the values that are the source domain"
        )
    return domains


def _is_new(sample: Scanned, known: dict[str, Any]) -> bool:
    return sample.stamp is None or sample.locator not in known or known[sample.locator].stamp != sample.stamp


def _user_groups(where: str, column: str | None, samples: Sequence[Scanned]) -> list[str | None]:
    if column is None:
        return [None] * len(samples)
    return [text_of(value) for value in column_of([s.labels for s in samples], column, f"{where}.group")]


def _split(
    where: str,
    options: SplitOptions,
    samples: Sequence[Scanned],
    user_groups: Sequence[str | None],
    keys: Sequence[bytes],
    domains: Sequence[str],
    seed: int,
) -> tuple[list[str], list[str]]:
    """Split of each sample, and what to say about it."""
    groups = splitting.group_names(user_groups, keys)
    labels = [sample.labels for sample in samples]
    notes: list[str] = []
    given: list[str] | None = None
    if options.column is not None:
        given = _given_names(where, options.column, samples)
    elif options.by == "domain":
        given = ["test" if domain == "target" else "train" for domain in domains]
    elif any(sample.split is not None for sample in samples):
        given = [sample.split or "train" for sample in samples]
    if given is not None:
        if options.stratify is not False:
            raise DataError(
                f"{where}.split.stratify: the data come with splits of their own, which are kept; drop "
                "stratify"
            )
        try:
            completed = splitting.complete_given(given, groups, seed, options.val, options.test)
        except DataError as error:
            raise DataError(f"{where}.split: {error}") from error
        splits, notes = completed.splits, completed.notes
        notes += _straddling_note(user_groups, splits)
    elif options.stratify is not False:
        strata = [text_of(value) for value in column_of(labels, options.stratify, f"{where}.split.stratify")]
        merged = splitting.merge_groups(user_groups, keys)
        splits = splitting.stratified(merged, strata, seed, options.val, options.test)
        notes.append(
            f"splits are stratified by {options.stratify!r}: shares are exact now, but adding samples "
            "moves others, "
            "between train and test too"
        )
    else:
        splits = splitting.membership(groups, seed, options.val, options.test)
    kept = splitting.drop_duplicates_across(splits, keys)
    num_dropped = sum(before != after for before, after in zip(splits, kept, strict=True))
    if num_dropped:
        of = Counter(before for before, after in zip(splits, kept, strict=True) if before != after)
        detail = ", ".join(f"{count:,} of {split}" for split, count in sorted(of.items()))
        notes.append(f"excluded {num_dropped:,} samples whose content is also in test or val ({detail})")
    return kept, notes


def _given_names(where: str, column: str, samples: Sequence[Scanned]) -> list[str]:
    values = column_of([sample.labels for sample in samples], column, f"{where}.split.column")
    given: list[str] = []
    wrong: Counter[str] = Counter()
    for value in values:
        text = text_of(value)
        name = GIVEN_NAMES.get(text.lower()) if text is not None else None
        if name is None:
            wrong["nothing" if text is None else repr(text)] += 1
        else:
            given.append(name)
    if wrong:
        found = ", ".join(f"{value} in {count:,} rows" for value, count in wrong.most_common(3))
        raise DataError(
            f"{where}.split.column: expected train, val, test or excluded in column {column!r}, found {found}"
        )
    return given


def _straddling_note(user_groups: Sequence[str | None], splits: Sequence[str]) -> list[str]:
    splits_of: dict[str, set[str]] = defaultdict(set)
    for group, split in zip(user_groups, splits, strict=True):
        if group is not None and split != "excluded":
            splits_of[group].add(split)
    straddling = sorted(group for group, found in splits_of.items() if len(found) > 1)
    if not straddling:
        return []
    return [
        f"{len(straddling):,} groups lie in several of the given splits "
        f"({', '.join(map(repr, straddling[:3]))}); "
        "given splits are kept, so scores may be too good"
    ]


def _shared_notes(manifest: Manifest) -> list[str]:
    """Content of a further modality that lies in several splits: the first modality alone decides about splits."""
    notes = []
    for modality in manifest.modalities[1:]:
        splits_of: dict[bytes, set[str]] = defaultdict(set)
        for key, split in zip(manifest.of(modality).keys, manifest.splits, strict=True):
            if split != "excluded":
                splits_of[key.tobytes()].add(split)
        num = sum(len(found) > 1 for found in splits_of.values())
        if num:
            notes.append(
                f"{num:,} {modality}s lie in several splits, beside other {manifest.modality}s; to keep them "
                "together, name a column that says which belong together with `group:`"
            )
    return notes


def _write_quarantine(path: Path, failed: Sequence[Scanned]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sample_id", "locator", "reason"])
    for sample in sorted(failed, key=lambda sample: sample.sample_id):
        writer.writerow([sample.sample_id, sample.locator, sample.reason])
    write_bytes(path, text.getvalue().encode("utf-8"))


def _refuse_too_many(
    where: str, max_failed: float, failed: Sequence[Scanned], total: int, quarantine_path: Path
) -> None:
    if len(failed) <= max_failed * total and len(failed) < total:
        return
    first = "; ".join(f"{sample.sample_id}: {sample.reason}" for sample in failed[:3])
    more = f"; and {len(failed) - 3:,} more in {quarantine_path}" if len(failed) > 3 else ""
    if len(failed) == total:
        raise TooManyFailed(f"{where}: expected readable samples, found none of {total:,}: {first}{more}")
    raise TooManyFailed(
        f"{where}: expected at most {max_failed:.2%} unreadable samples, found {len(failed):,} of {total:,} "
        f"({len(failed) / total:.2%}): {first}{more}; mend or remove them, or raise {where}.max_failed"
    )


def _quarantine_note(failed: Sequence[Scanned], quarantine_path: Path) -> list[str]:
    if not failed:
        return []
    return [f"left out {len(failed):,} unreadable samples, listed with reasons in {quarantine_path}"]
