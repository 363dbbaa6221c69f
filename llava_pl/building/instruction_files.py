"""The folder that instructions are built in.

In: what became of a teacher's replies. Out: ``conversation.json``, ``detailed.json`` and ``reasoning.json``, records;
``mixture.yaml``, by which training draws the kinds equally often; ``rejected.jsonl``, each text that is not learned
from, with the reasons; ``report.json``, counts and settings; ``report.html``. ``replies.jsonl`` is what was paid for:
of it all others are made, and can be made anew.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from PIL import Image

from llava_pl.building.instruction_page import instruction_page
from llava_pl.building.instructions import Written
from llava_pl.building.prompts import KINDS
from llava_pl.data.mixture import MOST_REPEATS
from llava_pl.whole_file import whole_file

REPLIES, MIXTURE = "replies.jsonl", "mixture.yaml"


def hash_inputs(inputs: Iterable[object]) -> str:
    """Return a hash of what was read of a file, whatever its form there; the same on every machine."""
    digest = sha256()
    for each in inputs:
        digest.update(f"{each!r}\n".encode())
    return digest.hexdigest()


def write_instructions(
    folder: Path,
    written: Sequence[Written],
    accepted_reasons: Collection[str],
    load_picture: Callable[[str], Image.Image] | None,
    num_requests: int,
    settings: Mapping[str, object],
) -> dict[str, int]:
    """Write all that is made of a teacher's replies, and return its counts; the same replies make the same bytes.

    Args:
        folder: Where.
        written: What became of each reply.
        accepted_reasons: Faults of these reasons are no hindrance; texts without turns stay rejected.
        load_picture: Returns a picture by its name, or raises InputError; None to show none.
        num_requests: How many replies there would be if none had failed.
        settings: All that decides the set beside the replies, to be written down.
    """
    good = [each for each in written if not _why_not(each, accepted_reasons)]
    rejected = [each for each in written if _why_not(each, accepted_reasons)]
    counts = {"requests": num_requests, "replies": len(written), "records": len(good)}
    for kind in KINDS:
        records = [each.record for each in good if each.request.kind == kind]
        if any(each.request.kind == kind for each in written):
            counts[kind] = len(records)
            _write(folder / f"{kind}.json", _as_list(records))
        else:
            (folder / f"{kind}.json").unlink(missing_ok=True)  # of another set
    # Of several reasons, each is counted.
    reasons = Counter(reason for each in rejected for reason in sorted({fault.reason for fault in each.faults}))
    counts |= {f"rejected: {reason}": number for reason, number in sorted(reasons.items())}
    if good:
        _write(folder / MIXTURE, _mix(folder, {kind: counts.get(kind, 0) for kind in KINDS}))
    else:
        (folder / MIXTURE).unlink(missing_ok=True)
    _write(
        folder / "rejected.jsonl", "".join(json.dumps(_explain(each), ensure_ascii=False) + "\n" for each in rejected)
    )
    _write(folder / "report.json", json.dumps({**counts, "settings": settings}, indent=2) + "\n")
    _write(folder / "report.html", instruction_page(counts, good, rejected, load_picture))
    return counts


def _why_not(written: Written, accepted_reasons: Collection[str]) -> bool:
    return written.record is None or any(fault.reason not in accepted_reasons for fault in written.faults)


def _as_list(records: Iterable[object]) -> str:
    """Return JSON of one record a line, which shows what differs between two files."""
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    return f"[\n{lines}\n]\n" if lines else "[]\n"


def _mix(folder: Path, numbers: dict[str, int]) -> str:
    """Return a configuration that draws the kinds equally often, as the paper does (section 4.2)."""
    there = {kind: number for kind, number in numbers.items() if number}
    most = max(there.values())
    repeats = {kind: min(round(most / number, 4), MOST_REPEATS) for kind, number in there.items()}
    sources = "".join(
        f"    - {{path: {json.dumps(f'{folder}/{kind}.json')}, repeats: {times}}}\n" for kind, times in repeats.items()
    )
    head = f"# Each kind equally often: llava-pl fit --config FILE --config {folder}/{MIXTURE}\n"
    if rare := [kind for kind, number in there.items() if most / number > MOST_REPEATS]:
        head += f"# But {' and '.join(rare)}: more than {MOST_REPEATS} repeats of a record are not drawn.\n"
    return f"{head}data:\n  records:\n{sources}"


def _explain(written: Written) -> dict[str, object]:
    request = written.request
    return {
        "image": request.description.image,
        "kind": request.kind,
        "reasons": [[fault.reason, fault.found] for fault in written.faults],
        "text": written.text,
        "request": request.name,
    }


def _write(path: Path, text: str) -> None:
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
