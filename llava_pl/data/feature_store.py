"""What the frozen vision encoder makes of pictures, kept on disk and mapped into memory.

In: patch features, by the hash of their picture's bytes. Out: a `PictureFeatures`, which `data/sample_encoder.py` asks
by name in the place of opening picture files.

A store is a folder for one encoder with one way of preparing pictures: ``manifest.json``, and files of features. A file
holds the rows of some pictures one after the other, then for each the hash of the picture and the checksum of the row.
It appears under its name only when complete, and is never changed: whoever reads the folder meanwhile sees fewer files,
never half of one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llava_pl.data.picture_digests import DIGEST_BYTES
from llava_pl.data.store_cache import sync
from llava_pl.types import InputError

FeatureCaching = Literal["none", "worthwhile", "always"]
"""Whether a run keeps features: not, where that pays (elsewhere it is refused), or anyway."""

FEATURES_VERSION = 1
"""Raised with every change of the files; other versions are built anew."""

FILE_BYTES = 1 << 28
"""A file is closed from this size on: as much is lost when a run is killed while it fills a store."""

_MANIFEST = "manifest.json"
_ENTRIES = np.dtype([("digest", f"V{DIGEST_BYTES}"), ("checksum", "<u4")])
"""What a file says of its rows, behind them."""


class Place(NamedTuple):
    """Where the features of a picture lie.

    Args:
        path: Of the file.
        row: Their number in it.
        checksum: CRC-32 of their bytes.
    """

    path: Path
    row: int
    checksum: int


@dataclass(frozen=True, slots=True)
class FeatureManifest:
    """What a store holds.

    Args:
        origin: What the features depend on beside their pictures, in plain words.
        shape: Patches and D_v of a picture.
        dtype: Of a number, as torch names it.
        difference: By how much a feature at most depended on what else was in its batch, when this was measured; 0.0
            if it did not, to the last bit.
        version: `FEATURES_VERSION` of the program that built it.
    """

    origin: dict[str, str]
    shape: tuple[int, int]
    dtype: str
    difference: float
    version: int = FEATURES_VERSION

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype itself."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of a picture."""
        return self.shape[0] * self.shape[1] * self.torch_dtype.itemsize


class FeatureStore:
    """A folder of features.

    Args:
        folder: Where they lie.
        manifest: What they are.
    """

    def __init__(self, folder: Path, manifest: FeatureManifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @staticmethod
    def folder_of(cache_dir: Path, origin: Mapping[str, str]) -> Path:
        """Return where features of an origin lie."""
        text = json.dumps([FEATURES_VERSION, dict(sorted(origin.items()))])
        return cache_dir / blake2b(text.encode(), digest_size=12).hexdigest()

    @classmethod
    def open(cls, folder: Path) -> FeatureStore | None:
        """Return the store in a folder; None if none was begun there."""
        try:
            content = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            manifest = FeatureManifest(**{**content, "shape": tuple(content["shape"])})
            return cls(folder, manifest) if manifest.version == FEATURES_VERSION and manifest.row_bytes else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    @classmethod
    def begin(cls, folder: Path, manifest: FeatureManifest) -> FeatureStore:
        """Return a store that holds nothing yet.

        Raises:
            OSError: The folder cannot be written to.
        """
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{_MANIFEST}.{os.getpid()}"
        temporary.write_text(json.dumps(asdict(manifest), indent=1), encoding="utf-8")
        temporary.replace(folder / _MANIFEST)
        return cls(folder, manifest)

    def find(self) -> dict[bytes, Place]:
        """Return the place of each picture, by the hash of its bytes; a file of a wrong size counts as none."""
        places: dict[bytes, Place] = {}
        row_bytes = self.manifest.row_bytes
        for path in sorted(self.folder.glob("*.features")):
            num_rows, rest = divmod(path.stat().st_size, row_bytes + _ENTRIES.itemsize)
            if rest:
                continue
            entries = np.fromfile(path, _ENTRIES, offset=num_rows * row_bytes)
            for row, (digest, checksum) in enumerate(entries.tolist()):
                places.setdefault(digest, Place(path, row, checksum))
        return places

    def remove_leftovers(self) -> None:
        """Remove what killed runs left half written; nobody may be writing."""
        for path in self.folder.glob(".*.part"):
            path.unlink(missing_ok=True)


class FeatureWriter:
    """Adds files to a store; what was added when the writer is left, by an error too, stays.

    Args:
        store: The store; several processes may add to it at once.
        file_bytes: As `FILE_BYTES`.
    """

    def __init__(self, store: FeatureStore, *, file_bytes: int = FILE_BYTES) -> None:
        self._store = store
        self._file_bytes = file_bytes
        self._part = store.folder / f".{os.uname().nodename}-{os.getpid()}.part"
        self._entries: list[tuple[bytes, int]] = []

    def __enter__(self) -> Self:
        self._file = self._part.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, OSError):
            self._finish()
        self._file.close()
        self._part.unlink(missing_ok=True)

    def add(self, digest: bytes, features: Tensor) -> None:
        """Add the features ``(patches, D_v)`` of a picture.

        Raises:
            OSError: They cannot be written.
        """
        manifest = self._store.manifest
        assert (tuple(features.shape), features.dtype) == (manifest.shape, manifest.torch_dtype), "of another store"
        row = features.detach().cpu().contiguous().view(torch.uint8).numpy().data
        self._file.write(row)
        self._entries.append((digest, crc32(row)))
        if self._file.tell() >= self._file_bytes:
            self._finish()
            self._file = self._part.open("wb")

    def _finish(self) -> None:
        """Close the file, and give it the name by which it counts."""
        if not self._entries:
            return
        # An error between the two lines of `add` may have left more than the rows that are known.
        self._file.truncate(self._file.seek(len(self._entries) * self._store.manifest.row_bytes))
        entries, self._entries = np.array(self._entries, _ENTRIES).tobytes(), []
        self._file.write(entries)
        self._file.close()
        sync(self._part)
        self._part.replace(self._store.folder / f"{blake2b(entries, digest_size=12).hexdigest()}.features")
        sync(self._store.folder)


@dataclass(slots=True)
class PictureFeatures:
    """The features of the pictures of a run, by their names.

    Workers share the pages that they map; what they need to find them is arrays, which cost nothing to share either.

    Args:
        manifest: What the features are.
        files: Where they lie.
        keys: uint64, hashes of all names in rising order; no two names of a run share one.
        file_of: int32, the file of each, -1 where a picture could not be read.
        row_of: int32, its row in there.
        checksum_of: uint32, the checksum of that row.
    """

    manifest: FeatureManifest
    files: Sequence[Path]
    keys: NDArray[np.uint64]
    file_of: NDArray[np.int32]
    row_of: NDArray[np.int32]
    checksum_of: NDArray[np.uint32]
    _maps: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    @classmethod
    def of(cls, store: FeatureStore, digests: Mapping[str, bytes | None]) -> PictureFeatures:
        """Return the features of pictures by their names.

        Args:
            store: Where they are.
            digests: Hash of each picture's bytes, None of one that cannot be read.
        """
        places = store.find()
        files = sorted({place.path for place in places.values()})
        numbers = {path: number for number, path in enumerate(files)}
        found = [places.get(digest or b"") for digest in digests.values()]
        keys = np.array([_key(name) for name in digests], dtype=np.uint64)
        assert len(np.unique(keys)) == len(keys), "two names with one hash of 64 bits"
        order = np.argsort(keys)
        file_of = np.array([-1 if place is None else numbers[place.path] for place in found], dtype=np.int32)
        row_of = np.array([0 if place is None else place.row for place in found], dtype=np.int32)
        checksum_of = np.array([0 if place is None else place.checksum for place in found], dtype=np.uint32)
        return cls(store.manifest, files, keys[order], file_of[order], row_of[order], checksum_of[order])

    def __getstate__(self) -> list[Any]:
        # A map would be pickled as all that it holds.
        return [self.manifest, self.files, self.keys, self.file_of, self.row_of, self.checksum_of]

    def __setstate__(self, state: list[Any]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def get(self, name: str) -> Tensor | None:
        """Return the features ``(patches, D_v)`` of a picture; None if it could not be read when the store was filled.

        Raises:
            KeyError: The run was not said to have such a picture.
            InputError: The file is gone, or no longer holds what was written.
        """
        place = int(np.searchsorted(self.keys, key := _key(name)))
        if place == len(self.keys) or self.keys[place] != key:
            raise KeyError(name)
        number = int(self.file_of[place])
        if number < 0:
            return None
        path = self.files[number]
        try:
            if number not in self._maps:
                self._maps[number] = np.memmap(path, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:  # ValueError: it is empty by now
            raise InputError(f"{path}: cannot be read ({error}); start again, and it is computed anew") from error
        start = int(self.row_of[place]) * self.manifest.row_bytes
        row = self._maps[number][start : start + self.manifest.row_bytes].copy()
        if (found := crc32(row.data)) != (expected := int(self.checksum_of[place])):
            raise InputError(
                f"{path}: features of picture {name!r} are damaged: expected checksum {expected:08x}, found "
                f"{found:08x}; delete this file and start again, and it is computed anew"
            )
        return torch.from_numpy(row).view(self.manifest.torch_dtype).view(self.manifest.shape)

    @property
    def nothing(self) -> Tensor:
        """Features of no picture, ``(0, patches, D_v)``."""
        return torch.empty(0, *self.manifest.shape, dtype=self.manifest.torch_dtype)


def _key(name: str) -> np.uint64:
    digest = blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))
