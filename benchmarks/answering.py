"""B7 and B8: questions to answers, beside the original's loop and transformers; one picture for several questions.

    python benchmarks/run.py --only B7 B8 --tokenizer LLAMA
    python benchmarks/answering.py LLAMA           # how many answers in bfloat16 depend on the batch

LLAMA is a folder with LLaMA's `tokenizer.model`. B7 answers questions shaped as ScienceQA's, half of them about a
picture of their own; B8 asks eight questions about each of some pictures, which this project reads once when it knows
that they are the same. The model is tiny and random, but a picture is 576 image tokens and an answer at most four
tokens, because LLaVA-1.5 reads 336 pixels and answers ScienceQA by a letter and the end mark.

transformers answers in batches as the questions come, as a user's loop does, and once more with the longest questions
first, which is how ours come. Before anything is timed, all ways must give the same answers.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from answer_work import make_encoder, write_model, write_questions
from harness import Environments, Measured, Peer, run_rounds
from report import Row, row_of

HERE = Path(__file__).parent
BENCHMARKS = {"B7": "B7 questions", "B8": "B8 eight questions per picture"}
BATCH_SIZE, MAX_NEW_TOKENS = 16, 4
OURS, APART, ORIGINAL = "ours", "ours, every picture by itself", "original, one by one"
TARGETS = {"transformers": 1.15, ORIGINAL: 2.5, APART: 3.5}


@dataclass(frozen=True)
class Way:
    """A process that answers, and what it is asked.

    Args:
        peer: The process.
        request: The set of questions, and how they are answered.
    """

    peer: Peer
    request: Mapping[str, object]

    def check(self) -> dict[str, str]:
        """Return the answers, by the id of the question."""
        answers: dict[str, str] = self.peer.ask(do="check", **self.request)["answers"]
        return answers

    def run_round(self) -> Measured:
        """Run a round, and return what it took."""
        return self.peer.run_round(**self.request)


def count_differing(ours: Mapping[str, str], theirs: Mapping[str, str]) -> int:
    """Return how many answers differ.

    >>> count_differing({"1": "A", "2": "B"}, {"1": "A", "2": "C"})
    1
    """
    return sum(ours.get(name) != theirs.get(name) for name in ours.keys() | theirs.keys())


def check_equal(ways: Mapping[str, Way]) -> int:
    """Return how many questions there are.

    Raises:
        SystemExit: Answers differ from those of the first way.
    """
    answers = {name: way.check() for name, way in ways.items()}
    first = next(iter(answers.values()))
    differing = {name: count_differing(first, found) for name, found in answers.items()}
    if any(differing.values()):
        raise SystemExit(f"answers that differ from those of {next(iter(ways))!r}: {differing}")
    return len(first)


def start_ways(number: str, folder: Path, places: Environments, num_threads: int) -> dict[str, Way]:
    """Return the ways of a benchmark, ours first."""

    def start(script: str, python: Path | str, *arguments: object) -> Peer:
        words = [python, HERE / script, folder, places.tokenizer, *arguments]
        return Peer([str(word) for word in words], num_threads)

    def ours(questions: str) -> Way:
        peer = start("answer_ours.py", sys.executable, "float32", MAX_NEW_TOKENS)
        return Way(peer, {"questions": questions, "batch_size": BATCH_SIZE})

    def theirs(questions: str, **options: object) -> Way:
        peer = start("answer_transformers.py", sys.executable, MAX_NEW_TOKENS)
        return Way(peer, {"questions": questions, "batch_size": BATCH_SIZE, **options})

    if number == "B8":
        return {
            OURS: ours("shared"),
            APART: ours("apart"),
            "transformers": theirs("shared"),
            "transformers, one by one": theirs("shared", batch_size=1),
        }
    ways = {
        OURS: ours("mixed"),
        "transformers": theirs("mixed"),
        "transformers, longest first": theirs("mixed", longest_first=True),
        "transformers, one by one": theirs("mixed", batch_size=1),
    }
    if places.llava_python and places.llava_checkout:
        peer = start("answer_original.py", places.llava_python, MAX_NEW_TOKENS, places.llava_checkout)
        ways[ORIGINAL] = Way(peer, {"questions": "mixed"})
    return ways


def measure(number: str, places: Environments, *, is_full: bool, num_threads: int) -> Iterator[Row]:
    """Yield the rows of B7 or B8; all ways take turns."""
    benchmark = BENCHMARKS[number]
    if places.tokenizer is None:
        yield Row(benchmark, OURS, note="skipped: needs a tokenizer of LLaMA's, `--tokenizer`")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_work(folder, places.tokenizer, *((400, 20) if is_full else (40, 4)))
        ways = start_ways(number, folder, places, num_threads)
        num_questions = check_equal(ways)
        runs = {way: each.run_round for way, each in ways.items()}
        rounds = (7, 2) if is_full else (3, 1)
        found = run_rounds(runs, num_rounds=rounds[0], num_warm_ups=rounds[1])
        for way in ways.values():
            way.peer.close()
    for way, measured in found.items():
        rate = f"{num_questions / median(each.wall for each in measured):.1f} questions/s"
        ours = None if way == OURS else found[OURS]
        # The target beside transformers is B7's.
        target = TARGETS.get(way) if is_full and (number, way) != ("B8", "transformers") else None
        yield row_of(benchmark, way, rate, measured, ours, target)
    if number == "B7" and ORIGINAL not in found:
        yield Row(benchmark, ORIGINAL, note="skipped: see `make_peer_envs.py`")


def write_work(folder: Path, tokenizer: Path, num_questions: int, num_pictures: int) -> None:
    """Write model, pictures and questions."""
    write_model(folder, str(tokenizer))
    write_questions(folder, make_encoder(folder, str(tokenizer)), num_questions, num_pictures)


def main() -> None:
    """Print for each batch size how many answers in bfloat16 are not those of one question at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path, help="folder with LLaMA's tokenizer.model")
    parser.add_argument("--questions", type=int, default=400, help="questions of B7")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_work(folder, options.tokenizer, options.questions, 1)
        words = [HERE / "answer_ours.py", folder, options.tokenizer, "bfloat16", MAX_NEW_TOKENS]
        ask = partial(Peer([sys.executable, *map(str, words)], 2).ask, do="check", questions="mixed")
        alone = ask(batch_size=1)["answers"]
        print(f"| batch size | answers that differ from those of batch size 1, of {len(alone)} |\n| --- | --- |")
        for size in (2, 4, 8, 16, 32):
            print(f"| {size} | {count_differing(alone, ask(batch_size=size)['answers'])} |", flush=True)


if __name__ == "__main__":
    main()
