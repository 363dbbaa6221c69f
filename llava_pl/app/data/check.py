"""All records of a run to a report of what training and validation would stumble over.

In: the records of each source, parsed or not, and the encoder of `fit`. Out: a `CheckReport`, which `check_terminal.py`
and `check_html.py` draw, and whose bad records are the quarantine. Nothing stops at the first mistake.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch.utils.data import ConcatDataset, DataLoader, Dataset

from llava_pl.data.collate import count_supervised
from llava_pl.data.sample_encoder import SampleEncoder
from llava_pl.types import BadRecord, Record, RecordError

BATCH_SIZE = 16


@dataclass(frozen=True, slots=True)
class Outcome:
    """What encoding one record came to.

    Args:
        bad: What is wrong with it, None if nothing is.
        num_cut: Tokens that are cut off its end.
        skipped: Why training leaves it out by itself.
    """

    bad: BadRecord | None = None
    num_cut: int = 0
    skipped: str | None = None


@dataclass(slots=True)
class CheckReport:
    """What is wrong with the records of a run.

    Args:
        sources: How many records of each source were checked.
        bad: The bad ones, in order.
        num_cut_records: How many are longer than max_length and lose text.
        skipped: How many training leaves out by itself, by reason.
        repeated_ids: How often each id occurs that occurs more than once in its source; this is allowed.
    """

    sources: dict[str, int]
    bad: list[BadRecord] = field(default_factory=list)
    num_cut_records: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    repeated_ids: dict[str, int] = field(default_factory=dict)

    @property
    def num_records(self) -> int:
        """How many records were checked."""
        return sum(self.sources.values())

    @property
    def summary(self) -> str:
        """The result in one line."""
        if not self.bad:
            return f"all {self.num_records:,} records are good"
        return f"{len(self.bad):,} of {self.num_records:,} records are bad"

    @property
    def notes(self) -> list[str]:
        """What is no mistake, but good to know."""
        found = []
        if len(self.sources) > 1:
            num_bad = Counter(bad.source for bad in self.bad)
            found += [f"{label}: {num_bad[label]:,} of {count:,} are bad" for label, count in self.sources.items()]
        if self.num_cut_records:
            found.append(f"records longer than max_length, which lose the end of their text: {self.num_cut_records:,}")
        found += [f"records that training leaves out: {count:,} ({reason})" for reason, count in self.skipped.items()]
        if self.repeated_ids:
            name, count = next(iter(self.repeated_ids.items()))
            found.append(
                f"ids that occur more than once in a source: {len(self.repeated_ids):,}, "
                f"such as {name!r} ({count:,} times)"
            )
        return found

    def by_reason(self) -> dict[str, list[BadRecord]]:
        """Return the bad records by reason, the most frequent first."""
        reasons = Counter(bad.reason for bad in self.bad)
        return {reason: [bad for bad in self.bad if bad.reason == reason] for reason, _ in reasons.most_common()}


def list_places(bad: Sequence[BadRecord], most: int) -> str:
    """Return where the first of some bad records are.

    >>> list_places([BadRecord(index, "", "", "", source=source) for source in "ab" for index in (3, 8)], most=3)
    'a 3, 8, b 3, ...'
    """
    words = [
        entry.place if number == 0 or entry.source != bad[number - 1].source else str(entry.index)
        for number, entry in enumerate(bad[:most])
    ]
    return ", ".join([*words, "..."] if len(bad) > most else words)


class Probe(Dataset[Outcome]):
    """Encodes a record of a source when it is asked for, and hands on what came of it instead of the sample."""

    def __init__(self, source: str, records: Sequence[Record | BadRecord], encoder: SampleEncoder) -> None:
        self.source = source
        self.records = records
        self.encoder = encoder

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Outcome:
        record = self.records[index]
        if isinstance(record, BadRecord):
            return Outcome(record)
        try:
            sample = self.encoder.encode_record(record)
            if sample.skipped is None and not count_supervised(sample.labels[None]):
                after = f", after {sample.num_cut:,} tokens were cut off" if sample.num_cut else ""
                raise RecordError(f"record {record.id!r}: nothing is supervised{after}", "nothing_supervised")
        except RecordError as error:
            return Outcome(BadRecord(index, record.id, error.reason, str(error), record.images, self.source))
        return Outcome(num_cut=sample.num_cut, skipped=sample.skipped)


def check_records(
    sources: Mapping[str, Sequence[Record | BadRecord]],
    encoder: SampleEncoder,
    *,
    num_workers: int = 0,
    advance: Callable[[int], None] = lambda count: None,
) -> CheckReport:
    """Return what is wrong with records, each of them encoded as training encodes it, pictures and all.

    Args:
        sources: All records of each source, by its label.
        encoder: As `fit` has it.
        num_workers: Processes that work in parallel; 0 for this one alone.
        advance: Called with the number of records that were done since the last call.

    Raises:
        InputError: A setting is wrong for every record.
    """
    report = CheckReport({label: len(records) for label, records in sources.items()})
    probes: ConcatDataset[Outcome] = ConcatDataset(Probe(label, records, encoder) for label, records in sources.items())
    loader: DataLoader[Outcome] = DataLoader(probes, batch_size=BATCH_SIZE, num_workers=num_workers, collate_fn=list)
    for outcomes in loader:
        report.bad += [outcome.bad for outcome in outcomes if outcome.bad is not None]
        report.num_cut_records += sum(outcome.num_cut > 0 for outcome in outcomes)
        report.skipped.update(outcome.skipped for outcome in outcomes if outcome.skipped is not None)
        advance(len(outcomes))
    for records in sources.values():
        ids = Counter(record.id for record in records)
        report.repeated_ids |= {name: count for name, count in ids.items() if count > 1 and name}
    return report
