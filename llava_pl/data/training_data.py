"""The sources of a run, opened and counted: what they hold, what is wrong with it, and what an epoch is made of.

In: sources, and the encoder of samples. Out: a `TrainingData`, whose records, tokens and lengths the data modules hand
to their loaders. `GivenRecords` is the same for records that a data module makes by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llava_pl.data.encoded import EncodedRecords
from llava_pl.data.entries import Entries, Places, RunSource
from llava_pl.data.lengths import count_words
from llava_pl.data.mixture import Mixed, Mixture
from llava_pl.data.presence import find_missing
from llava_pl.data.quarantine import Quarantine, refuse
from llava_pl.data.store_cache import open_store
from llava_pl.data.tokenization import EncodedConversation
from llava_pl.types import BadRecord, Record

if TYPE_CHECKING:
    from llava_pl.data.sample_encoder import SampleEncoder


class GivenRecords:
    """Records that were made by a data module itself, as a single source that is measured when it is asked for.

    Args:
        records: All records of an epoch.
        make_encoder: Returns what makes their samples.

    Attributes:
        labels, entries, records, places, tokens, content: As those of `TrainingData`.
    """

    labels = ("records",)
    places = None
    tokens = None
    content = None

    def __init__(self, records: Sequence[Record], make_encoder: Callable[[], SampleEncoder]) -> None:
        self.entries: dict[str, Sequence[Record | BadRecord]] = {self.labels[0]: records}
        self.records = records
        self._make_encoder = make_encoder

    @cached_property
    def num_tokens(self) -> NDArray[np.int32]:
        """The length T of each sample."""
        encoder = self._make_encoder()
        return np.array([encoder.count_tokens(record) for record in self.records], dtype=np.int32)

    @cached_property
    def num_words(self) -> NDArray[np.int32]:
        """The words of each sample, negative without a picture."""
        return np.array(count_words(self.records), dtype=np.int32)

    def count_pictures(self) -> Counter[str]:
        """Return how often an epoch shows each picture, by its name."""
        return Counter(name for record in self.records for name in record.images)

    def count_sources(self, indices: Sequence[int]) -> list[int]:
        """Return how many of some samples are from each source."""
        return [len(indices)]

    def find(self, source: str, place: int) -> int | None:
        """Return the sample of the entry at a place of a source."""
        return place

    def describe(self) -> list[str]:
        """Return nothing: what the records hold is not known before it is asked for."""
        return []


class TrainingData:
    """What a run learns from.

    Args:
        sources: In order; no label twice.
        encoder: Makes the samples.
        cache_dir: Folder of all stores; by default `store_cache.default_cache_dir`.
        has_tokens: Keep and use the token ids of all records.
        num_workers: Processes that encode what has not been encoded before.
        quarantine: Which entries are left out, None for none.
        seed: Of the draw of a fraction of a source.
        say: Called with one line at a time.

    Attributes:
        labels: Name of each source.
        entries: All entries of each source, by its label.
        mixture: Which records an epoch holds.
        records: These records.
        places: What messages call them.
        tokens: Their tokens, None if they are not kept.

    Raises:
        InputError: A source, the quarantine or a setting is wrong.
        RecordError: A record that cannot be learned from is not in the quarantine.
    """

    def __init__(
        self,
        sources: Sequence[RunSource],
        encoder: SampleEncoder,
        *,
        cache_dir: str | Path | None = None,
        has_tokens: bool = False,
        num_workers: int = 0,
        quarantine: Quarantine | None = None,
        seed: int = 0,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.sources = tuple(sources)
        self._stores = [open_store(source.source, cache_dir) for source in sources]
        self.entries: dict[str, Sequence[Record | BadRecord]] = {
            source.label: Entries(source, store) for source, store in zip(sources, self._stores, strict=True)
        }
        self._left_out = {
            label: quarantine.leave_out(label, entries, say) if quarantine else {}
            for label, entries in self.entries.items()
        }
        self._missing = [find_missing(store, encoder.image_folder) for store in self._stores]
        if quarantine:
            self._tolerate_missing(say)
        self._encoded = [
            EncodedRecords.of(store, encoder, has_tokens=has_tokens, num_workers=num_workers) for store in self._stores
        ]
        if bad := [entry for entry in self._list_bad() if entry.index not in self._left_out[entry.source]]:
            refuse(bad, sum(map(len, self.entries.values())), say)
        self.mixture = Mixture(
            [source.label for source in sources],
            [np.flatnonzero(~self._is_left_out(number)) for number in range(len(self._stores))],
            [source.repeats for source in sources],
            seed=seed,
        )
        self.labels = self.mixture.labels
        self.records: Sequence[Record] = Mixed(self.mixture, self._stores)
        self.places: Sequence[str] | None = Mixed(
            self.mixture, [Places(label, store) for label, store in zip(self.labels, self._stores, strict=True)]
        )
        self.tokens: Sequence[EncodedConversation] | None = None
        if has_tokens:
            self.tokens = Mixed(self.mixture, [encoded.tokens or () for encoded in self._encoded])

    @cached_property
    def num_tokens(self) -> NDArray[np.int32]:
        """The length T of each sample of an epoch."""
        return self.mixture.gather([encoded.num_tokens for encoded in self._encoded])

    @cached_property
    def num_words(self) -> NDArray[np.int32]:
        """The words of each sample of an epoch, negative without a picture."""
        return self.mixture.gather([encoded.num_words for encoded in self._encoded])

    @cached_property
    def num_supervised(self) -> NDArray[np.int32]:
        """The supervised tokens of each sample of an epoch."""
        return self.mixture.gather([encoded.num_supervised for encoded in self._encoded])

    def count_pictures(self) -> Counter[str]:
        """Return how often an epoch shows each picture, by its name."""
        counts: Counter[str] = Counter()
        for number, store in enumerate(self._stores):
            times = self.mixture.count_draws(number, len(store)).tolist()
            for index, name in store.list_pictures():
                if times[index]:
                    counts[name] += times[index]
        return counts

    def count_sources(self, indices: Sequence[int]) -> list[int]:
        """Return how many of some samples of an epoch are from each source."""
        return [int(count) for count in self.mixture.count_sources(indices)]

    def find(self, source: str, place: int) -> int | None:
        """Return the first sample of the entry at a place of a source, None if an epoch does not hold it."""
        number = self.labels.index(source)
        found = np.flatnonzero(self._stores[number].source_index == place)
        return self.mixture.find(number, int(found[0])) if len(found) else None

    @property
    def content(self) -> str:
        """Hash of what an epoch holds: the contents of its sources, how they are read, and which records are drawn."""
        digest = blake2b(digest_size=16)
        for source, store in zip(self.sources, self._stores, strict=True):
            digest.update(f"{source.source.variant} {store.content} ".encode())
        digest.update(self.mixture.digest)
        return digest.hexdigest()

    def describe(self) -> list[str]:
        """Return a line for each source: its records, how long their samples are, and what of them is learned.

        Tokens are those of its samples as they are learned from, image tokens included, each record counted once.
        """
        return [
            f"data.records: {source.label}: {_describe(encoded, ~self._is_left_out(number), source.repeats)}"
            for number, (source, encoded) in enumerate(zip(self.sources, self._encoded, strict=True))
        ]

    def _list_bad(self) -> list[BadRecord]:
        """Return the entries that are no records, those that cannot be encoded, and those that miss a picture."""
        bad: list[BadRecord] = []
        for source, store, encoded, missing in zip(
            self.sources, self._stores, self._encoded, self._missing, strict=True
        ):
            found = [replace(entry, source=source.label) for entry in store.bad]
            absent = {
                index: ("picture_missing", f"picture {name!r}: no such file in data.image_folder")
                for index, name in missing.items()
            }
            for index, (reason, message) in {**absent, **encoded.bad}.items():
                place, record = int(store.source_index[index]), store[index]
                where = f"{source.source.path}: record {place} (id {record.id!r})"
                found.append(
                    BadRecord(place, record.id, reason, f"{where}: {message}", record.images, source=source.label)
                )
            bad += sorted(found, key=lambda entry: entry.index)
        return bad

    def _tolerate_missing(self, say: Callable[[str], None]) -> None:
        """Leave pictures that are missing to their turn, as those that break on the way, unless all are.

        A run that goes on where a file is gone by now must not be refused: its quarantine cannot be changed any more.
        """
        for number, (source, store, missing) in enumerate(zip(self.sources, self._stores, self._missing, strict=True)):
            unnamed = [index for index in missing if store.source_index[index] not in self._left_out[source.label]]
            if unnamed and len(missing) < len({index for index, _ in store.list_pictures()}):
                first = f"{source.label} {store.source_index[unnamed[0]]}: {missing[unnamed[0]]!r}"
                say(
                    f"data.records: {source.label}: {len(unnamed):,} records miss a picture and are not in the "
                    f"quarantine, such as {first}; they are left out when their turn comes, unless it is there by then"
                )
                self._missing[number] = {}

    def _is_left_out(self, number: int) -> NDArray[np.bool_]:
        """Return for each record of a store whether the quarantine names it."""
        places = list(self._left_out[self.sources[number].label])
        return np.isin(self._stores[number].source_index, np.array(places, dtype=np.int64))


def _describe(encoded: EncodedRecords, is_left: NDArray[np.bool_], repeats: float) -> str:
    lengths, num_supervised = encoded.num_tokens[is_left], encoded.num_supervised[is_left]
    parts = [f"{len(lengths):,} records"]
    if not is_left.all():
        parts.append(f"{int((~is_left).sum()):,} left out")
    if num_dropped := int((num_supervised == 0).sum()):
        parts.append(f"{num_dropped:,} dropped for their length")
    if repeats != 1:
        parts.append(f"{repeats:g} times an epoch")
    if len(lengths):
        total = int(lengths.sum(dtype=np.int64))
        median, high = np.percentile(lengths, [50, 95])
        share = 100 * int(num_supervised.sum(dtype=np.int64)) / total
        parts.append(
            f"{total:,} tokens (mean {total / len(lengths):.1f}, p50 {median:.0f}, p95 {high:.0f}), "
            f"{share:.1f} % supervised"
        )
    return ", ".join(parts)
