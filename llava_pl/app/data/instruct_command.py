"""`llava-pl data instruct`: captions and boxes to instructions that a teacher writes, words in, exit status out."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from jsonargparse import Namespace

from llava_pl import __version__
from llava_pl.app.task_parser import TaskParser
from llava_pl.building.costs import Budget, Prices, estimate
from llava_pl.building.descriptions import draw_descriptions, read_descriptions
from llava_pl.building.faults import REASONS
from llava_pl.building.instruction_files import MIXTURE, REPLIES, hash_inputs, write_instructions
from llava_pl.building.instructions import Request, Written, check_written, make_requests
from llava_pl.building.objects import NAMES, Objects, read_names
from llava_pl.building.prompts import FOLDER, KINDS, read_prompt
from llava_pl.building.reply_store import ReplyStore, Teacher
from llava_pl.building.wordings import DETAILED, read_wordings
from llava_pl.data.picture_files import find_picture, load_image
from llava_pl.data.store_cache import locked
from llava_pl.endpoint import (
    TOKENS_PER_REPLY,
    Endpoint,
    EndpointError,
    Failure,
    Reply,
    ask_all,
    check_range,
    count_most_tokens,
)
from llava_pl.progress import progress_bar
from llava_pl.types import InputError

DESCRIPTION = """Write the records of stage `finetune` as LLaVA's authors made theirs: a teacher that sees no picture is
told its captions and boxes, and writes a conversation, a detailed description, and a question that takes thought. What
it writes is checked; what is not taken is kept with the reason. No picture leaves this machine.

SRC is a folder with COCO's captions_SPLIT.json and instances_SPLIT.json, or lines (.jsonl) of {"image", "captions":
[TEXT], "boxes": [{"category", "box": [LEFT, TOP, RIGHT, BOTTOM]}]} with shares of width and height.

Each reply is kept in DST/replies.jsonl by what was asked, so that a run that is stopped goes on, and nothing is paid
for twice. Without --endpoint nothing is asked: the set is made anew of the replies that are there, with the same
options. The key is taken from OPENAI_API_KEY."""

EXAMPLE = """examples
  llava-pl data instruct annotations taught --split train2017 --model gpt-4.1 --limit 1000 --dry_run
  llava-pl data instruct annotations taught --split train2017 --model gpt-4.1 --limit 1000 \\
    --endpoint https://api.openai.com/v1 --prices.read 2 --prices.written 8 --max_cost 20
  llava-pl fit --config configs/experiment/finetune_7b.yaml --config taught/mixture.yaml \\
    --data.image_folder train2017"""

SETTINGS = ("src", "split", "model", "temperature", "kinds", "limit", "seed", "prompts", "wording", "objects", "accept")
"""By these options the same replies make the same set."""


def main(words: Sequence[str]) -> int:
    """Build, and return the exit status: 1 where requests are left that were not answered.

    Args:
        words: What follows ``llava-pl data instruct``.

    Raises:
        InputError: A file or an option is wrong, or the endpoint refuses.
    """
    options = make_parser().parse_args(list(words))
    endpoint = _make_endpoint(options)
    check_range("limit", options.limit, 1)
    described, num_empty = read_descriptions(Path(options.src), options.split)
    if num_empty:
        sys.stdout.write(f"{num_empty:,} pictures are left out: they have neither captions nor boxes\n")
    descriptions = draw_descriptions(described, options.limit, options.seed)
    teacher = Teacher(options.model, options.temperature, options.max_tokens)
    prompts = [read_prompt(kind, Path(options.prompts or FOLDER)) for kind in KINDS if kind in options.kinds]
    names = read_names(Path(options.objects or NAMES))
    objects = Objects({box.category for each in described for box in each.boxes}, names)
    wordings = read_wordings(Path(options.wording or DETAILED))
    inputs: dict[str, Sequence[object]] = {
        "src": described,
        "prompts": prompts,
        "objects": [names],
        "wording": wordings,
    }
    requests = make_requests(descriptions, prompts, teacher)
    folder = Path(options.dst)
    if not options.dry_run:
        _make(folder)
    with nullcontext() if options.dry_run else locked(folder, is_kept=True):
        store = ReplyStore(folder / REPLIES)
        _check_replies(requests, store, folder, options.dry_run)
        missing = _find_missing(requests, store, options.max_tokens)
        _say_what_it_costs(requests, missing, store, options)
        if options.dry_run:
            for request in requests[: len(prompts)]:
                _show(request)
            return 0
        failure = _ask(missing, store, endpoint, options) if missing and endpoint is not None else None
        written = list(check_written(requests, store, objects, wordings, options.seed, options.accept))
        if failure is not None and not written:
            raise failure
        counts = _write(folder, written, len(requests), options, inputs)
    for name, number in counts.items():
        sys.stdout.write(f"{number:>12,}  {name}\n")
    sys.stdout.write(f"wrote {folder}; look at {folder / 'report.html'}\n")
    if not counts["records"]:
        sys.stdout.write(f"there are no records yet, so that there is no {folder / MIXTURE}\n")
    num_left = _say_what_is_left(requests, store, endpoint)
    if failure is not None:
        raise failure
    return 1 if num_left else 0


def make_parser() -> TaskParser:
    """Return the options, without torch."""
    parser = TaskParser(
        prog="llava-pl data instruct",
        usage="llava-pl data instruct SRC DST --model NAME [options]",
        description=DESCRIPTION,
        epilog=EXAMPLE,
    )
    add = parser.add_argument
    add("src", metavar="SRC", help="Where captions and boxes are.")
    add("dst", metavar="DST", help="Folder to write; made if need be.")
    add("--model", required=True, metavar="NAME", help="Who writes.")
    add("--endpoint", metavar="URL", help="Where it answers; without it, replies that are there are taken.")
    add("--split", metavar="NAME", help="One of COCO's splits, where SRC has several.")
    kinds = f"What is asked for, of {', '.join(KINDS)}."
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help=kinds)
    add("--limit", type=int, metavar="N", help="Draw so many pictures; more are those and others.")
    add("--seed", type=int, default=0, metavar="N", help="Of draws: pictures, wordings, where the picture stands.")
    add("--dry_run", action="store_true", help="Say what it would cost, show a request of each kind, and ask nobody.")
    add("--prompts", metavar="FOLDER", help="Holds KIND.yaml: what the teacher is told; else llava_pl's own.")
    add("--wording", metavar="FILE", help="What detailed descriptions answer, one a line; else llava_pl's own.")
    add("--objects", metavar="FILE", help="Names of objects, by which texts are checked; else llava_pl's own.")
    reasons = f"Faults to pass over, of {', '.join(REASONS)}."
    add("--accept", nargs="+", choices=REASONS, default=[], metavar="REASON", help=reasons)
    add("--image_folder", metavar="FOLDER", help="Pictures, for the page alone.")
    add(
        "--temperature",
        type=float | None,
        default=0.7,
        metavar="X",
        help="Of what is written; null for the endpoint's own.",
    )
    longest = "Longest reply; null for the endpoint's own. With more, what was cut off is asked for again."
    add("--max_tokens", type=int | None, default=1024, metavar="N", help=longest)
    for name, what in (("read", "requests"), ("written", "replies")):
        add(f"--prices.{name}", type=float, default=0.0, metavar="DOLLARS", help=f"Of a million tokens of {what}.")
    most = "Send nothing by which DST could cost more in all; needs --prices."
    add("--max_cost", type=float, metavar="DOLLARS", help=most)
    parser.add_class_arguments(Endpoint, skip={"url", "model", "temperature"})
    return parser


def _make_endpoint(options: Namespace) -> Endpoint | None:
    check_range("max_cost", options.max_cost, 0, is_above=True)
    if options.max_cost is not None and Prices(**options.prices) == Prices():
        raise InputError("--max_cost: expected --prices.read and --prices.written with it, found neither")
    if options.max_cost is not None and options.max_tokens is None:
        raise InputError(
            "--max_cost: expected a number of --max_tokens with it, by which a reply costs at most, found null"
        )
    if options.endpoint is None:
        return None
    limits = {name: options[name] for name in ("num_at_once", "max_retries", "max_per_minute", "timeout")}
    return Endpoint(options.endpoint, options.model, temperature=options.temperature, **limits)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another name") from error


def _check_replies(requests: Sequence[Request], store: ReplyStore, folder: Path, is_dry: bool) -> None:
    """Refuse to pay for all anew, or to make an empty set, where what was written of a kind is of another run."""
    num_replies = store.count({request.kind for request in requests})
    if not num_replies or any(store.find(request.name) is not None for request in requests):
        return
    words = (
        f"{folder / REPLIES}: expected replies to requests of this run, found {num_replies:,} to others alone: "
        "of another source, draw, model, temperature or other prompts; take the options that "
        f"{folder / 'report.json'} has, or another DST"
    )
    if not is_dry:
        raise InputError(words)
    sys.stdout.write(f"{words}\n")


def _find_missing(requests: Sequence[Request], store: ReplyStore, max_tokens: int | None) -> dict[str, Request]:
    """Return what is to be asked by name; what failed before comes last, so that it is in nobody's way."""
    missing = [request for request in requests if store.is_missing(request.name, max_tokens)]
    return {request.name: request for request in sorted(missing, key=lambda request: request.name in store.failed)}


def _say_what_it_costs(
    requests: Sequence[Request], missing: dict[str, Request], store: ReplyStore, options: Namespace
) -> None:
    replies = [reply for each in requests if (reply := store.find(each.name)) is not None]
    num_read, num_written = estimate((each.messages for each in missing.values()), replies, options.max_tokens)
    prices = Prices(**options.prices)
    dollars = f", {prices.cost(num_read, num_written):,.2f} dollars" if prices != Prices() else ""
    sys.stdout.write(
        f"{len(requests):,} requests, {len(missing):,} of them still to ask: about {num_read:,.0f} tokens read and "
        f"{num_written:,.0f} written{dollars}\n"
    )


def _say_what_is_left(requests: Sequence[Request], store: ReplyStore, endpoint: Endpoint | None) -> int:
    left = [request for request in requests if store.find(request.name) is None]
    failed = [store.failed[request.name] for request in left if request.name in store.failed]
    if left:
        text = f"{len(left):,} of {len(requests):,} requests are not answered"
        if failed:
            text += f", {len(failed):,} of them failed, the first: {failed[0]}"
        then = "the same command" if endpoint is not None else "the same command with --endpoint"
        sys.stdout.write(f"{text}; {then} asks for them{', for what failed last' if failed else ''}\n")
    return len(left)


def _show(request: Request) -> None:
    sys.stdout.write(f"\n===== {request.kind}: {request.description.image} =====\n")
    for message in request.messages:
        sys.stdout.write(f"----- {message['role']}\n{message['content']}\n")


def _write(
    folder: Path,
    written: Sequence[Written],
    num_requests: int,
    options: Namespace,
    inputs: Mapping[str, Sequence[object]],
) -> dict[str, int]:
    pictures = options.image_folder and Path(options.image_folder)
    load = (lambda name: load_image(find_picture(pictures, name))) if pictures else None
    hashes = {name: hash_inputs(values) for name, values in inputs.items()}
    settings = {name: options[name] for name in SETTINGS} | {"llava_pl": __version__, "sha256": hashes}
    return write_instructions(folder, written, options.accept, load, num_requests, settings)


def _ask(
    missing: dict[str, Request], store: ReplyStore, endpoint: Endpoint, options: Namespace
) -> InputError | KeyboardInterrupt | None:
    """Ask for what is missing, and return what went wrong, as a set can be made of what came before."""
    prices = Prices(**options.prices)
    longest = max(count_most_tokens(request.messages) for request in missing.values())
    most = prices.cost(longest, options.max_tokens or TOKENS_PER_REPLY)
    budget = Budget(options.max_cost, prices, most, prices.cost(store.num_read, store.num_written))
    spent_before, num_new = budget.spent, 0
    failure: InputError | KeyboardInterrupt | None = None
    with progress_bar(len(missing), "asking") as advance:

        def keep(name: str, outcome: Reply | Failure) -> None:
            nonlocal num_new
            store.add(name, missing[name].description.image, missing[name].kind, outcome, options.max_tokens)
            num_new += isinstance(outcome, Reply)
            advance(1)

        messages = ((name, request.messages) for name, request in missing.items())
        try:
            ask_all(endpoint, messages, keep, max_tokens=options.max_tokens, allowance=budget)
        except EndpointError as error:
            then = ", the same command goes on" if error.can_go_on else ""
            failure = InputError(f"{error}; {num_new:,} new replies are kept{then}")
        except KeyboardInterrupt as error:
            failure = error
    if prices != Prices():
        in_all = f", {budget.spent:,.2f} in all" if spent_before else ""
        sys.stdout.write(f"spent about {budget.spent - spent_before:,.2f} dollars{in_all}\n")
    if failure is None and num_new < len(missing):
        sys.stdout.write(f"--max_cost: {options.max_cost:,.2f} dollars could be passed; no more was sent\n")
    return failure
