"""Records by their place to samples by their place: what a loader's workers ask for.

In: records, and the `SampleEncoder` that makes samples of them. Out: a `Sample` for each; where a picture cannot be
read and its record is to be left out, one that teaches nothing.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import replace

from torch.utils.data import Dataset

from llava_pl.data.sample_encoder import SampleEncoder
from llava_pl.data.tokenization import EncodedConversation
from llava_pl.types import Record, RecordError, Sample

PICTURE_REASONS = ("picture_missing", "picture_broken")
"""Reasons of a `RecordError` that may pass by themselves: the file, not the record, is at fault."""


class RecordDataset(Dataset[Sample]):
    """Records to learn from, encoded when they are asked for.

    A picture that cannot be read is tried again: disks in a network fail for moments. If it stays so, the run stops, or
    the record is left out, said aloud and counted. No other record ever takes its place.

    Args:
        records: What to learn from.
        encoder: Makes their samples.
        tokens: What the encoder's `tokenize` returns for each record, if it is at hand.
        places: What messages call each record, such as "charts 7", if that is known.
        skips_broken: Leave out records whose picture cannot be read.
        retry_after_seconds: How long to wait before each further try.
    """

    def __init__(
        self,
        records: Sequence[Record],
        encoder: SampleEncoder,
        *,
        tokens: Sequence[EncodedConversation] | None = None,
        places: Sequence[str] | None = None,
        skips_broken: bool = False,
        retry_after_seconds: Sequence[float] = (),
    ) -> None:
        self.records = records
        self.encoder = encoder
        self.tokens = tokens
        self.places = places
        self.skips_broken = skips_broken
        self.retry_after_seconds = tuple(retry_after_seconds)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        return replace(self._encode(index, self.retry_after_seconds), index=index)

    def _encode(self, index: int, waits: Sequence[float]) -> Sample:
        record = self.records[index]
        try:
            return self.encoder.encode_record(record, None if self.tokens is None else self.tokens[index])
        except RecordError as error:
            message = f"{self.places[index]}: {error}" if self.places else str(error)
            if error.reason not in PICTURE_REASONS or not (waits or self.skips_broken):
                raise RecordError(message, error.reason) from error
            if not waits:
                # Explicit, for one line: `warn` adds one of source code. Each time, not once per place in the code.
                warnings.warn_explicit(f"{message}; the record is left out", UserWarning, filename="llava-pl", lineno=0)
                return self.encoder.skip(record, error.reason)
        time.sleep(waits[0])
        return self._encode(index, waits[1:])
