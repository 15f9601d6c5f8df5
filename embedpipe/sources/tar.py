"""Tar shards as WebDataset lays them out: members that share a name up to the first dot are one sample.

Members are read by offset, out of an index that ingest makes and that manifests carry. A shard that has not changed is
not opened again.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from PIL import Image
from pydantic import Field, model_validator

from embedpipe.errors import DataError, EmbedpipeError, UnreadableSample
from embedpipe.manifest.keys import content_key, version_key
from embedpipe.params import StrictModel
from embedpipe.progress import Progress, silent
from embedpipe.remote import is_remote
from embedpipe.sources.base import CONTENT, ETAG, Access, Label, Modality, Scanned, Seen, plain
from embedpipe.sources.decode import DECODER, check_header, decode, image_suffixes
from embedpipe.sources.files import Check
from embedpipe.sources.places import STORAGE, FileInfo, base_of, join, locate, unreachable
from embedpipe.spec import digest

LABELS = ("cls", "json", "txt")
_NAME = re.compile(r"^((?:.*/)?[^./][^./]*)\.([^/]+)$")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class TarOptions(StrictModel):
    """Shards of samples in tar files."""

    kind: Literal["tar"] = Field(description="Marks this source.")
    path: str = Field(
        min_length=1,
        description="The shards or their addresses, as a pattern such as shards/{000..012}.tar or s3://lake/*.tar; a "
        "relative path starts at the folder of params.yaml.",
    )
    storage: dict[str, Any] | None = Field(default=None, description=STORAGE)
    image: str | None = Field(
        default="auto",
        description="Extension of the images, such as jpg; auto: any that Pillow reads; null: none.",
    )
    text: str | None = Field(default=None, description="Extension of the texts, such as txt; null: none.")
    check: Check = Field(
        default="header", description="How ingest looks at an image: its header (fast) or all of it (decode)."
    )

    @model_validator(mode="after")
    def _text_or_image(self) -> Self:
        if self.text is None and self.image is None:
            raise ValueError(
                "expected `image:`, `text:` or both, the extensions of what is embedded, found neither"
            )
        return self

    @property
    def modalities(self) -> tuple[str, ...]:
        """What each sample has."""
        given = {"image": self.image, "text": self.text}
        return tuple(modality for modality, place in given.items() if place is not None)


@dataclass
class _Group:
    """The members of one sample: name, offset and size of each, by extension."""

    name: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)


class TarSource:
    """Samples of shards. A locator is shard, offset and size: ``000.tar:1536+20480``."""

    modalities: tuple[Modality, ...]

    def __init__(self, options: TarOptions, access: Access) -> None:
        self.options = options
        self.path = locate(access.root, options.path)
        self.base = base_of(self.path)
        self.files = access.files(options.storage)
        self.id_column, self.version = access.id_column, access.version
        extensions: dict[Modality, str | None] = {"image": options.image, "text": options.text}
        self.extensions = {modality: ext for modality, ext in extensions.items() if ext is not None}
        self.modalities = tuple(self.extensions)
        self._suffixes = image_suffixes()
        self._notes: list[str] = []

    def scan(self, known: Mapping[str, Seen], progress: Progress = silent) -> Iterator[Scanned]:
        """List every sample, shard by shard in the order of their names."""
        try:
            shards = self.files.glob(self.path)
        except FileNotFoundError:
            shards = []
        if not shards:
            raise DataError(f"{self.path}: expected tar shards, found none; check `source.path`")
        remembered: dict[str, list[tuple[str, Seen]]] = defaultdict(list)
        for locator, seen in known.items():
            remembered[_shard_of(locator)].append((locator, seen))
        self._notes = []
        num = num_without = 0
        for done, shard in enumerate(shards):
            name = shard.removeprefix(self.base).lstrip("/")
            try:
                info = self.files.info(shard)
            except FileNotFoundError as error:
                raise DataError(f"{shard}: expected a tar shard, found no such file") from error
            stamp = self._stamp(info)
            samples = _recalled(remembered[name], stamp)
            if samples is None:
                samples, without = self._index(shard, name, info, stamp)
                num_without += without
            elif self.files.spooling:
                self.files.copy(shard, info)  # it is there, and stays
            num += len(samples)
            yield from samples
            progress(done + 1, len(shards), "shards")
        if num_without:
            self._notes.append(
                f"passed over {num_without:,} groups of members that hold no {self.modalities[0]}"
            )
        if not num:
            raise DataError(
                f"{self.path}: expected members such as 0001.jpg and 0001.cls, found no {self.modalities[0]} in "
                f"{len(shards)} shards; name their extension under source.{self.modalities[0]}"
            )
        self.files.sweep()

    def read(self, locator: str) -> Image.Image | str:
        """One image in mode RGB or L, or one text."""
        modality, content = self._read(locator)
        return decode(content) if modality == "image" else _text(content)

    def read_encoded(self, locator: str) -> bytes | None:
        """The member that is one image; None for a text."""
        modality, content = self._read(locator)
        return content if modality == "image" else None

    def _read(self, locator: str) -> tuple[str, bytes]:
        """Modality and content of one member."""
        modality: str = self.modalities[0]
        if len(self.modalities) > 1:
            modality, _, locator = locator.partition(":")
        shard, offset, nbytes = _parsed(locator)
        content = self.files.read_range(join(self.base, shard), offset, nbytes)
        if len(content) < nbytes:
            raise UnreadableSample(
                f"cut short: expected {nbytes:,} bytes at {offset:,} of {shard}, found {len(content):,}"
            )
        return modality, content

    def notes(self) -> list[str]:
        return self._notes

    def _stamp(self, info: FileInfo) -> str:
        about = [
            self.options.image,
            self.options.text,
            self.options.check,
            self.id_column,
            self.version,
            DECODER,
            *([] if self.version in (CONTENT, ETAG) else ["keys by name"]),
        ]
        return f"{info.stamp} {digest(about)[:16]}" if info.stamp else ""

    def _index(self, shard: str, name: str, info: FileInfo, stamp: str) -> tuple[list[Scanned], int]:
        """Every sample of a shard, and how many groups of members are none."""
        if self.files.spooling:
            self.files.copy(shard, info)
        found: list[Scanned] = []
        without = 0
        with self.files.open(shard, sparsely=self.version != CONTENT) as file:
            try:
                for group in self._groups(shard, file, info.nbytes):
                    sample = self._sample(group, file, shard, name, info, stamp)
                    if sample is None:
                        without += 1
                    else:
                        found.append(sample)
            except (EmbedpipeError, tarfile.TarError):
                raise
            except Exception as error:
                if is_remote(shard):
                    raise unreachable(shard, error) from error
                raise
        extras = [json.loads(sample.extra or "{}") for sample in found]
        whole = [
            json.dumps({**extra, "num": len(found), "at": i}, sort_keys=True)
            for i, extra in enumerate(extras)
        ]
        return [replace(sample, extra=extra) for sample, extra in zip(found, whole, strict=True)], without

    def _groups(self, shard: str, file: Any, nbytes: int) -> Iterator[_Group]:
        """Members that share a name, as they lie one after the other."""
        head = file.read(6)
        for magic, what in _COMPRESSED.items():
            if head.startswith(magic):
                raise DataError(
                    f"{shard}: expected a tar that is not compressed, since members are read by offset, found {what}; "
                    "unpack it (images are compressed already)"
                )
        file.seek(0)
        group: _Group | None = None
        num = 0
        try:
            tar = tarfile.TarFile(fileobj=file, mode="r")
            while (member := tar.next()) is not None:
                if member.offset_data + member.size > nbytes:
                    raise DataError(
                        f"{shard}: cut short in {member.name!r}, after {num:,} samples: expected {member.size:,} bytes "
                        f"at {member.offset_data:,}, found the end at {nbytes:,}; copy the shard again"
                    )
                match = _NAME.match(member.name.removeprefix("./"))
                if not member.isfile() or match is None:
                    continue
                prefix, extension = match.groups()
                if group is None or group.name != prefix:
                    if group is not None:
                        num += 1
                        yield group
                    group = _Group(prefix)
                group.members[extension.lower()] = (member.offset_data, member.size)
            end = tar.offset
        except tarfile.TarError as error:
            raise DataError(f"{shard}: expected a tar file, found something else ({error})") from error
        file.seek(end)
        rest = file.read(512)
        if rest.strip(b"\0"):
            raise DataError(
                f"{shard}: damaged after {num + (group is not None):,} samples: expected the header of a member at "
                f"byte {end:,}, found something else; write the shard again, or leave it out of source.path"
            )
        if group is not None:
            yield group

    def _sample(
        self, group: _Group, file: Any, shard: str, name: str, info: FileInfo, stamp: str
    ) -> Scanned | None:
        main, *more = self.modalities
        place = self._member(group, main)
        if place is None:
            return None
        labels, reason = self._labels(group, file)
        sample_id = self._id(group, name, labels, shard)
        locators = {main: self._locator(main, name, place)}
        keys: dict[Modality, bytes] = {}
        try:
            if reason is not None:
                raise UnreadableSample(reason)
            for modality in self.modalities:
                its_place = self._member(group, modality)
                if its_place is None:
                    raise UnreadableSample(f"no member .{self.extensions[modality]}, its {modality}")
                locators[modality] = self._locator(modality, name, its_place)
                keys[modality] = self._key(group, modality, file, shard, its_place, info, labels)
        except UnreadableSample as error:
            keys, reason = {}, str(error)
        also = {modality: (keys[modality], locators[modality]) for modality in more} if keys else {}
        extra = {
            "id": sample_id,
            "labels": labels,
            "also": {modality: [key.hex(), locator] for modality, (key, locator) in also.items()},
        }
        return Scanned(
            sample_id,
            locators[main],
            keys.get(main),
            reason,
            labels,
            None,
            stamp or None,
            also,
            json.dumps(extra),
        )

    def _member(self, group: _Group, modality: Modality) -> tuple[int, int] | None:
        wanted = self.extensions[modality]
        if wanted != "auto":
            return group.members.get(wanted.lower().lstrip("."))
        return next((place for ext, place in group.members.items() if f".{ext}" in self._suffixes), None)

    def _locator(self, modality: Modality, name: str, place: tuple[int, int]) -> str:
        prefix = f"{modality}:" if len(self.modalities) > 1 else ""
        return f"{prefix}{name}:{place[0]}+{place[1]}"

    def _key(
        self,
        group: _Group,
        modality: Modality,
        file: Any,
        shard: str,
        place: tuple[int, int],
        info: FileInfo,
        labels: Mapping[str, Label],
    ) -> bytes:
        """Of a member's content; or of where it lies in this version of its shard, or its name and its own version."""
        if self.version == ETAG:
            if not info.stamp:
                raise DataError(f"{shard}: expected an etag, which `version: etag` needs, found none")
            return version_key(f"{shard}#{place[0]}+{place[1]}", info.stamp)
        if self.version != CONTENT:
            version = str(self._field(labels, self.version, "version", shard))
            # by name: in a shard that is written again another member may lie where this one did
            return version_key(f"{shard}#{group.name}", modality, version)
        content = _read_at(file, place)
        if modality == "text":
            _text(content)
        elif self.options.check == "decode":
            decode(content)
        else:
            check_header(content)
        return content_key(content)

    def _labels(self, group: _Group, file: Any) -> tuple[dict[str, Label], str | None]:
        """Label columns: `cls`, the fields of `json`, and `txt` where that is not what is embedded."""
        labels: dict[str, Label] = {}
        texts = self.extensions.get("text", "").lower().lstrip(".")
        for extension in LABELS:
            if extension not in group.members or extension == texts:
                continue
            try:
                text = _text(_read_at(file, group.members[extension])).strip()
                if extension != "json":
                    labels[extension] = text
                    continue
                fields = json.loads(text)
            except (UnreadableSample, ValueError) as error:
                return labels, f"its .{extension} cannot be read: {error}"
            if not isinstance(fields, dict):
                return labels, f"its .json: expected an object, found {type(fields).__name__}"
            labels.update({key: plain(value) for key, value in fields.items()})
        return labels, None

    def _id(self, group: _Group, name: str, labels: Mapping[str, Label], shard: str) -> str:
        if self.id_column in (None, "key"):
            return group.name
        if self.id_column == "shard/key":
            return f"{name.removesuffix('.tar')}/{group.name}"
        assert self.id_column is not None
        return str(self._field(labels, self.id_column, "id", shard))

    def _field(self, labels: Mapping[str, Label], column: str, where: str, shard: str) -> Label:
        value = labels.get(column)
        if value is None or value == "":
            raise DataError(
                f"{shard}: {where}: expected {column!r} in each sample's .json or .cls, found one without; fields: "
                f"{', '.join(labels) or 'none'}"
            )
        return value


def _read_at(file: Any, place: tuple[int, int]) -> bytes:
    file.seek(place[0])
    return bytes(file.read(place[1]))


def _text(content: bytes) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnreadableSample(
            f"expected UTF-8, found byte 0x{content[error.start]:02x} at {error.start}"
        ) from error
    if not text.strip():
        raise UnreadableSample("empty text")
    return text


def _shard_of(locator: str) -> str:
    """The shard that a locator names, whatever modality stands before it."""
    rest = locator.partition(":")[2] if locator.startswith(("image:", "text:")) else locator
    return rest.rpartition(":")[0]


def _parsed(locator: str) -> tuple[str, int, int]:
    shard, _, place = locator.rpartition(":")
    offset, plus, nbytes = place.partition("+")
    if not (shard and plus and offset.isdecimal() and nbytes.isdecimal()):
        raise UnreadableSample(f"expected shard:offset+size, found {locator!r}")
    return shard, int(offset), int(nbytes)


def _recalled(remembered: list[tuple[str, Seen]], stamp: str) -> list[Scanned] | None:
    """The samples of a shard as they were seen before, if it has not changed and none is missing."""
    if not stamp or not remembered or any(seen.stamp != stamp or not seen.extra for _, seen in remembered):
        return None
    found = [(json.loads(seen.extra or ""), locator, seen) for locator, seen in remembered]
    if any(extra["num"] != len(found) for extra, _, _ in found):
        return None  # an interrupted run
    found.sort(key=lambda one: int(one[0]["at"]))
    return [
        Scanned(
            extra["id"],
            locator,
            seen.key,
            seen.reason,
            extra["labels"],
            None,
            stamp,
            {modality: (bytes.fromhex(key), at) for modality, (key, at) in extra["also"].items()},
            seen.extra,
        )
        for extra, locator, seen in found
    ]
