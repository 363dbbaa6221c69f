"""B7 and B8: questions to answers, beside the original's loop and transformers; one picture for several questions.

    python benchmarks/answering.py --tokenizer LLAMA --llava-checkout LLAVA --llava-python PYTHON

LLAMA is a folder with LLaMA's `tokenizer.model`, LLAVA a checkout of haotian-liu/LLaVA, PYTHON an interpreter with the
packages that it pins; without the last two, its row is left out. B7 answers questions shaped as ScienceQA's, half of
them about a picture of their own; B8 asks eight questions about each of some pictures, which this project reads once
when it knows that they are the same. The model is tiny and random, but a picture is 576 image tokens and an answer at
most four tokens, because LLaVA-1.5 reads 336 pixels and answers ScienceQA by a letter and the end mark.

transformers answers in batches as the questions come, as a user's loop does, and once more with the longest questions
first, which is how ours come.

Before anything is timed, all ways must give the same answers. With `--dtype bfloat16` nothing is timed: it prints how
many of B7's answers differ between batch sizes, of which there are none in float32.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median

from answer_work import make_encoder, write_model, write_questions
from harness import Measured, Peer, compare, run_rounds

HERE = Path(__file__).parent


def count_differing(ours: dict[str, str], theirs: dict[str, str]) -> int:
    """Return how many answers differ.

    >>> count_differing({"1": "A", "2": "B"}, {"1": "A", "2": "C"})
    1
    """
    return sum(ours.get(name) != theirs.get(name) for name in ours.keys() | theirs.keys())


def print_differences(ours: Peer, sizes: Sequence[int]) -> None:
    """Print for each batch size how many answers are not those of one question at a time."""
    alone = ours.ask(do="check", questions="mixed", batch_size=1)["answers"]
    print(f"\n| batch size | answers that differ from those of batch size 1, of {len(alone)} |\n| --- | --- |")
    for size in sizes:
        found = ours.ask(do="check", questions="mixed", batch_size=size)["answers"]
        print(f"| {size} | {count_differing(alone, found)} |", flush=True)


def measure(title: str, ways: dict[str, tuple[Peer, dict[str, object]]], *, num_rounds: int, num_warm_ups: int) -> None:
    """Check that all ways give the same answers, then print a table of the time that each needs for them."""
    checked = {way: peer.ask(do="check", **request)["answers"] for way, (peer, request) in ways.items()}
    first = next(iter(ways))
    differing = {way: count_differing(checked[first], answers) for way, answers in checked.items()}
    if any(differing.values()):
        raise SystemExit(f"{title}: answers that differ from those of {first!r}: {differing}")
    words = [len(answer.split()) for answer in checked[first].values()]
    print(f"\n{title}: {len(words)} equal answers of {min(words)} to {max(words)} words, on average {mean(words):.1f}")
    runs: dict[str, Callable[[], Measured]] = {
        way: partial(peer.run_round, **request) for way, (peer, request) in ways.items()
    }
    found = run_rounds(runs, num_rounds=num_rounds, num_warm_ups=num_warm_ups)
    print("\n| way | questions/s | time / ours | CPU, ms per question | CPU time / ours | peak memory, MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    own = found[first]
    for way, rounds in found.items():
        cells = [
            way,
            f"{len(words) / median(r.wall for r in rounds):.1f}",
            "1.00" if way == first else str(compare([r.wall for r in own], [r.wall for r in rounds])),
            f"{1000 * median(r.cpu for r in rounds) / len(words):.1f}",
            f"{median(r.cpu for r in rounds) / median(r.cpu for r in own):.2f}",
            f"{median(r.peak_mib for r in rounds):.0f}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print two Markdown tables, or one of differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="folder with LLaMA's tokenizer.model")
    parser.add_argument("--llava-checkout", help="folder of haotian-liu/LLaVA")
    parser.add_argument("--llava-python", help="interpreter with the packages of haotian-liu/LLaVA")
    parser.add_argument("--quick", action="store_true", help="a tenth of the questions, three rounds after one warm-up")
    parser.add_argument("--questions", type=int, help="questions of B7, by default 400")
    parser.add_argument("--pictures", type=int, help="pictures of B8, each with eight questions, by default 20")
    parser.add_argument("--batch-size", type=int, default=16, help="questions that are answered together")
    parser.add_argument("--max-new-tokens", type=int, default=4, help="where an answer ends at the latest")
    parser.add_argument("--rounds", type=int, help="rounds that count, by default 7")
    parser.add_argument("--threads", type=int, default=2, help="threads, and cores, of every process")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="see above")
    parser.add_argument("--only", choices=("B7", "B8"), help="one of the two")
    options = parser.parse_args()
    num_questions = options.questions or (40 if options.quick else 400)
    num_pictures = options.pictures or (4 if options.quick else 20)
    rounds = {"num_rounds": options.rounds or (3 if options.quick else 7), "num_warm_ups": 1 if options.quick else 2}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder, options.tokenizer)
        write_questions(folder, make_encoder(folder, options.tokenizer), num_questions, num_pictures)
        most = str(options.max_new_tokens)

        def start(script: str, python: str, *arguments: str) -> Peer:
            return Peer([python, str(HERE / script), name, options.tokenizer, *arguments], options.threads)

        ours = start("answer_ours.py", sys.executable, options.dtype, most)
        peers = [ours]
        if options.dtype != "float32":
            print_differences(ours, sorted({2, 4, 8, options.batch_size, 32}))
        else:
            theirs = start("answer_transformers.py", sys.executable, most)
            peers.append(theirs)
            alone, batched = {"batch_size": 1}, {"batch_size": options.batch_size}
            mixed, shared, apart = ({"questions": each} for each in ("mixed", "shared", "apart"))
            ways: dict[str, tuple[Peer, dict[str, object]]] = {
                f"ours, {options.batch_size} together": (ours, {**mixed, **batched}),
                f"transformers, {options.batch_size} together": (theirs, {**mixed, **batched}),
                f"transformers, {options.batch_size} together, longest first": (
                    theirs,
                    {**mixed, **batched, "longest_first": True},
                ),
                "transformers, one by one": (theirs, {**mixed, **alone}),
            }
            if options.llava_checkout and options.llava_python:
                original = start("answer_original.py", options.llava_python, most, options.llava_checkout)
                peers.append(original)
                ways["the original's loop"] = (original, mixed)
            if options.only != "B8":
                measure("B7", ways, **rounds)
            if options.only != "B7":
                measure(
                    "B8",
                    {
                        "ours, pictures read once": (ours, {**shared, **batched}),
                        "ours, every picture by itself": (ours, {**apart, **batched}),
                        f"transformers, {options.batch_size} together": (theirs, {**shared, **batched}),
                        "transformers, one by one": (theirs, {**shared, **alone}),
                    },
                    **rounds,
                )
        for peer in peers:
            peer.close()


if __name__ == "__main__":
    main()
