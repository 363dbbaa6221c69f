"""Guards `llava-pl data instruct`: money spent twice, malformed replies in the set, a key or a picture sent out."""

import errno
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import scripted_teacher
from PIL import Image
from scripted_teacher import completion

from llava_pl import __version__
from llava_pl.cli import main
from llava_pl.data.records import read_records
from llava_pl.data.store_cache import locked

NUM_PICTURES = 6
NUMBERS = " ".join(map(str, range(40)))
KEY = "a-key-that-nobody-may-see"


def write(request):
    """Reply to a request as a good teacher does, of what the request says alone."""
    system, told = request["messages"][0]["content"], request["messages"][-1]["content"]
    number = re.search(r"picture (\d+)", told)[1]
    if "conversations between" in system:
        return f"Question: Which is it?\nAnswer: The {number}th.\nQuestion: A dog?\nAnswer: Yes, one dog, {number}."
    if "describe pictures in detail" in system:
        return f"The picture with number {number} shows a dog. {NUMBERS}"
    return f"Question: Why does it stand there in {number}?\nAnswer: It may wait, says {number}. {NUMBERS}"


@pytest.fixture
def words(tmp_path, monkeypatch, teacher_server):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p").mkdir()
    box = {"category": "dog", "box": [0.25, 0.25, 0.75, 0.75]}
    rows = [{"image": f"{n}.png", "captions": [f"A dog in picture {n}."], "boxes": [box]} for n in range(NUM_PICTURES)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for n in range(NUM_PICTURES):
        Image.new("RGB", (40, 40), (n, 0, 0)).save(tmp_path / "p" / f"{n}.png")
    teacher_server.reply = write
    return ["data", "instruct", "d.jsonl", "out", "--model", "tiny", "--max_retries", "0"]


def read_json(path):
    return json.loads(Path(path).read_text())


def kept(tmp_path):
    """Return the replies that are kept."""
    lines = map(json.loads, (tmp_path / "out" / "replies.jsonl").read_text().splitlines())
    return [line for line in lines if "failed" not in line]


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_writes_records_of_each_kind(words, teacher_server, tmp_path, capsys):
    assert main([*words, "--endpoint", teacher_server.url, "--image_folder", "p"]) == 0
    shown = capsys.readouterr().out
    assert "18 requests, 18 of them still to ask: about " in shown
    assert "          18  records\n" in shown
    assert len(teacher_server.requests) == 18
    for kind in ("conversation", "detailed", "reasoning"):
        records = read_records(f"out/{kind}.json")
        assert [record.id for record in records] == [f"{n}.png_{kind}" for n in range(NUM_PICTURES)]
    assert (tmp_path / "out" / "report.html").read_text().count("<img ") == 18
    # Nothing of a picture, and not even its name, was sent.
    sent = json.dumps(teacher_server.requests)
    assert ".png" not in sent
    assert "base64" not in sent
    assert not any(KEY.encode() in content for content in contents(tmp_path).values())


def test_the_set_is_made_anew_without_asking(words, teacher_server, tmp_path, capsys):
    main([*words, "--endpoint", teacher_server.url])
    before = contents(tmp_path / "out")
    assert main(words) == 0
    assert contents(tmp_path / "out") == before
    replies = (tmp_path / "out" / "replies.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "replies.jsonl").write_text("".join(reversed(replies)))
    assert main([*words[:3], "other", *words[4:]]) == 0
    for name in (
        "conversation.json",
        "detailed.json",
        "reasoning.json",
        "report.html",
        "report.json",
        "rejected.jsonl",
    ):
        assert (tmp_path / "other" / name).read_bytes() == before[name]
    assert len(teacher_server.requests) == 18


def test_records_do_not_change_with_the_limit(words, teacher_server, tmp_path):
    main([*words, "--endpoint", teacher_server.url])
    every = read_json("out/conversation.json")
    for limit in range(1, NUM_PICTURES):
        assert main([*words, "--limit", str(limit)]) == 0
        some = read_json("out/conversation.json")
        assert len(some) == limit
        assert some == [record for record in every if record in some]
    settings = read_json("out/report.json")["settings"]
    assert settings.pop("llava_pl") == __version__
    hashes = settings.pop("sha256")
    assert set(hashes) == {"src", "prompts", "objects", "wording"}
    assert settings == {
        "src": "d.jsonl", "split": None, "model": "tiny", "temperature": 0.7,
        "kinds": ["conversation", "detailed", "reasoning"], "limit": 5, "seed": 0, "prompts": None, "wording": None,
        "objects": None, "accept": [],
    }  # fmt: skip
    (tmp_path / "w.txt").write_text("What is there?\n")
    assert main([*words, "--wording", "w.txt"]) == 0
    changed = read_json("out/report.json")["settings"]["sha256"]
    assert {name for name in hashes if hashes[name] != changed[name]} == {"wording"}


def test_replies_of_another_run(words, teacher_server, tmp_path, capsys):
    endpoint = ["--endpoint", teacher_server.url]
    assert main([*words, *endpoint]) == 0
    before = contents(tmp_path / "out")
    message = "out/replies.jsonl: expected replies to requests of this run, found 18 to others alone: of another source"
    capsys.readouterr()
    for more in ([], endpoint):
        assert main([*words, *more, "--temperature", "0.6"]) == 2
        assert capsys.readouterr().err.startswith(f"llava-pl: error: {message}")
    assert main([*words, "--temperature", "0.6", "--dry_run"]) == 0
    assert capsys.readouterr().out.startswith(message)
    assert contents(tmp_path / "out") == before
    assert len(teacher_server.requests) == 18


def test_another_kind_lies_beside_what_is_there(words, teacher_server, tmp_path):
    words += ["--endpoint", teacher_server.url]
    for kind, others in (("detailed", []), ("reasoning", ["--temperature", "0.6"])):
        assert main([*words, "--kinds", kind, *others]) == 0
        assert sorted(path.name for path in tmp_path.glob("out/*.json")) == [f"{kind}.json", "report.json"]
    assert len(kept(tmp_path)) == len(teacher_server.requests) == 2 * NUM_PICTURES
    assert main(words) == 0
    assert len(teacher_server.requests) == 4 * NUM_PICTURES  # reasoning was asked for at another temperature


def test_without_replies_there_is_no_mixture(words, tmp_path, capsys):
    assert main(words) == 1
    shown = capsys.readouterr().out
    assert "there are no records yet, so that there is no out/mixture.yaml\n" in shown
    assert "18 of 18 requests are not answered; the same command with --endpoint asks for them\n" in shown
    assert not (tmp_path / "out" / "mixture.yaml").exists()


@pytest.mark.parametrize(("name", "words_of"), [(".lock", "{}"), ("replies.jsonl", "cannot be read ({})")])
def test_a_folder_that_cannot_be_written(words, teacher_server, name, words_of, tmp_path, capsys):
    (tmp_path / "out" / name).mkdir(parents=True)
    assert main([*words, "--endpoint", teacher_server.url]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"llava-pl: error: out/{name}: {words_of.format('Is a directory')}")
    assert error.count("\n") == 1
    assert teacher_server.requests == []


def test_a_full_disk_stops_all(words, teacher_server, tmp_path, monkeypatch, capsys):
    def fail(path, line):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("llava_pl.building.reply_store.append_line", fail)
    assert main([*words, "--endpoint", teacher_server.url, "--num_at_once", "1"]) == 2
    assert len(teacher_server.requests) == 1
    assert capsys.readouterr().err == (
        "llava-pl: error: out/replies.jsonl: a reply cannot be kept (No space left on device); make room, then the "
        "same command goes on\n"
    )


@pytest.mark.parametrize("key", [None, "two\nlines"])
def test_no_key_is_one_line(words, teacher_server, key, monkeypatch, capsys):
    monkeypatch.delenv("OPENAI_API_KEY")
    if key:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    assert main([*words, "--endpoint", teacher_server.url]) == 2
    error = capsys.readouterr().err
    assert error.startswith("llava-pl: error: OPENAI_API_KEY: expected ")
    assert error.count("\n") == 1


def test_a_key_that_is_written_by_the_endpoint_is_not_kept(words, teacher_server, tmp_path):
    teacher_server.reply = lambda request: f"{write(request)} {KEY} {KEY[:12]}"
    assert main([*words, "--endpoint", teacher_server.url]) == 0
    assert not any(KEY[:8].encode() in content for content in contents(tmp_path / "out").values())


def test_malformed_replies_never_get_in(words, teacher_server, tmp_path):
    caption = "Question: a?\nAnswer: A cat, as the caption says.\nQuestion: b?\nAnswer: c."
    bad = iter([caption, *scripted_teacher.TEXTS])
    teacher_server.reply = lambda request: next(bad, "nothing of use")
    words += ["--endpoint", teacher_server.url, "--num_at_once", "1"]
    assert main([*words, "--kinds", "conversation"]) == 0
    assert main([*words, "--kinds", "conversation", "reasoning"]) == 0
    assert read_json("out/conversation.json") == []
    assert read_json("out/reasoning.json") == []
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert len(rejected) == 2 * NUM_PICTURES
    assert {reason for each in rejected for reason, _ in each["reasons"]} == {"empty", "form", "object", "source"}
    assert [each["text"] for each in rejected[::2]][:1] == [caption]


def test_bodies_that_are_no_reply_are_not_kept(words, teacher_server, tmp_path, capsys):
    for body in scripted_teacher.BODIES:
        teacher_server.reply = lambda request, body=body: (200, body)
        assert main([*words, "--endpoint", teacher_server.url, "--num_at_once", "1", "--limit", "1"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("llava-pl: error: --endpoint http://127")
        assert error.count("\n") == 1
    assert kept(tmp_path) == []
    assert not (tmp_path / "out" / "report.json").exists()


def test_an_unsteady_endpoint_is_asked_again(words, teacher_server, tmp_path):
    teacher_server.reply = scripted_teacher.unsteadily(write)
    options = ["--endpoint", teacher_server.url, "--max_retries", "2", "--num_at_once", "9"]
    assert main([*words[:-2], *options]) == 0
    # Each was put off, failed, and was answered and paid for once.
    assert len(teacher_server.requests) == 3 * 18
    assert len((tmp_path / "out" / "replies.jsonl").read_text().splitlines()) == 18
    assert read_json("out/report.json")["records"] == 18


@pytest.mark.parametrize(("status", "advice"), [(401, "check OPENAI_API_KEY"), (404, "check --endpoint and --model")])
def test_a_failure_keeps_what_came(words, teacher_server, tmp_path, capsys, status, advice):
    fails = "picture 3"
    teacher_server.reply = lambda request: status if fails in request["messages"][-1]["content"] else write(request)
    words += ["--endpoint", teacher_server.url, "--num_at_once", "1"]
    assert main(words) == 2
    shown, error = capsys.readouterr()
    assert re.fullmatch(
        rf"llava-pl: error: --endpoint http://127.*status {status}.*; {advice}; 9 new replies are kept\n", error
    )
    assert KEY not in error
    assert "9 of 18 requests are not answered, 1 of them failed, the first: " in shown
    assert len(kept(tmp_path)) == read_json("out/report.json")["replies"] == 9
    teacher_server.reply, teacher_server.requests = write, []
    assert main(words) == 0
    assert len(teacher_server.requests) == 9


@pytest.mark.parametrize("answer", [400, 500, (200, b'{"choices": []}'), (200, b"no JSON")])
def test_what_is_refused_stops_no_other_and_is_asked_last(words, teacher_server, tmp_path, capsys, answer):
    """Each other picture is refused: 9 requests."""

    def refuse(request):
        number = int(re.search(r"picture (\d+)", request["messages"][-1]["content"])[1])
        return answer if number % 2 == 0 else write(request)

    teacher_server.reply = refuse
    words += ["--endpoint", teacher_server.url, "--num_at_once", "1"]
    assert main([*words, "--limit", "4"]) == 2
    capsys.readouterr()
    refused = [request for request in teacher_server.requests if refuse(request) == answer]
    assert 3 <= len(refused) < 9
    teacher_server.requests = []
    assert main(words) == 2
    shown, error = capsys.readouterr()
    assert re.fullmatch(
        r"llava-pl: error: --endpoint http://127.*/v1: 9 requests failed, the first: .*"
        r"; \d+ new replies are kept, the same command goes on\n",
        error,
    )
    assert re.search(
        r"9 of 18 requests are not answered, 9 of them failed, the first: .*; the same command asks for them, for what "
        r"failed last\n",
        shown,
    )
    assert len(kept(tmp_path)) == 9
    assert [record.id[0] for record in read_records("out/detailed.json")] == ["1", "3", "5"]
    # What was refused before came last.
    assert teacher_server.requests[-len(refused) :] == refused
    # It hides nowhere: without the endpoint, and when nothing else is left to ask.
    assert main(words[:-4]) == 1
    assert "the same command with --endpoint asks for them, for what failed last\n" in capsys.readouterr().out
    before = contents(tmp_path / "out")
    assert main(words) == 2
    after = contents(tmp_path / "out")
    added = after.pop("replies.jsonl").removeprefix(before.pop("replies.jsonl"))
    # What may be paid for each time is counted each time.
    assert added.count(b"\n") == (0 if isinstance(answer, int) else 9)
    assert after == before
    capsys.readouterr()
    teacher_server.reply = write
    assert main(words) == 0
    assert "failed" not in capsys.readouterr().out


def test_what_was_cut_off_is_asked_for_again_with_more_tokens(words, teacher_server, tmp_path):
    cut = "picture 3"

    def write_long(request):
        is_cut = cut in request["messages"][-1]["content"] and request["max_tokens"] < 2000
        return completion("The picture shows", finish="length") if is_cut else write(request)

    teacher_server.reply = write_long
    words += ["--endpoint", teacher_server.url]
    assert main(words) == 0
    assert read_json("out/report.json")["records"] == 15
    for most in ("1024", "500"):
        assert main([*words, "--max_tokens", most]) == 0
    assert len(teacher_server.requests) == 18
    assert main([*words, "--max_tokens", "2000"]) == 0
    assert len(teacher_server.requests) == 21
    assert read_json("out/report.json")["records"] == 18


def test_an_endpoint_that_counts_no_tokens_keeps_to_the_limit(words, teacher_server, capsys):
    teacher_server.reply = lambda request: completion(write(request), usage=None)
    # A request is 2,000 to 4,000 characters: up to 4 dollars are set aside, and a quarter of it is taken for its cost.
    words += ["--endpoint", teacher_server.url, "--prices.read", "1000", "--max_cost", "6"]
    assert main(words) == 1
    assert 2 <= len(teacher_server.requests) < 9
    assert main(words) == 1
    spent = float(re.findall(r"spent about 0.00 dollars, ([\d.]+) in all", capsys.readouterr().out)[-1])
    assert 1.5 < spent <= 6


@pytest.mark.parametrize("num_at_once", ["1", "4"])
def test_a_limit_on_the_cost(words, teacher_server, tmp_path, capsys, num_at_once):
    words += ["--endpoint", teacher_server.url, "--num_at_once", num_at_once, "--prices.written", "10000"]
    words += ["--max_tokens", "350"]
    # 20 tokens a reply, so 0.2 dollars; until it is there, 350 tokens are set aside for it, 3.5 dollars.
    assert main([*words, "--max_cost", "4"]) == 1
    shown = capsys.readouterr().out
    assert len(teacher_server.requests) == 3
    assert "63.00 dollars" in shown
    assert "spent about 0.60 dollars\n" in shown
    assert "--max_cost: 4.00 dollars could be passed; no more was sent" in shown
    assert "15 of 18 requests are not answered; the same command asks for them" in shown
    # The limit is one on all that was spent, not on one run.
    assert main([*words, "--max_cost", "4"]) == 1
    assert len(teacher_server.requests) == 3
    assert main([*words, "--max_cost", "4.2"]) == 1
    assert len(teacher_server.requests) == 4
    assert "spent about 0.20 dollars, 0.80 in all" in capsys.readouterr().out


def test_what_is_lost_counts_in_later_runs(words, teacher_server, capsys):
    teacher_server.reply = lambda request: 504
    words += ["--endpoint", teacher_server.url, "--num_at_once", "1", "--prices.written", "1000", "--max_cost", "2.5"]
    assert main(words) == 2
    assert len(teacher_server.requests) == 2  # 1,024 tokens each
    assert "spent about 2.05 dollars\n" in capsys.readouterr().out
    teacher_server.reply = write
    assert main(words) == 1
    assert len(teacher_server.requests) == 2
    assert "spent about 0.00 dollars, 2.05 in all\n" in capsys.readouterr().out


def test_models_that_call_the_longest_reply_otherwise_have_a_limit(words, teacher_server):
    refusal = 400, json.dumps({"error": {"message": "Use 'max_completion_tokens' instead."}}).encode()
    teacher_server.reply = lambda request: refusal if "max_tokens" in request else write(request)
    words += ["--endpoint", teacher_server.url, "--num_at_once", "1", "--prices.written", "1", "--max_cost", "1"]
    assert main(words) == 0
    assert len(teacher_server.requests) == 19
    assert teacher_server.requests[-1]["max_completion_tokens"] == 1024


def test_what_some_models_do_not_take_can_be_left_out(words, teacher_server):
    assert main([*words, "--endpoint", teacher_server.url, "--temperature", "null", "--max_tokens", "null"]) == 0
    assert {tuple(sorted(request)) for request in teacher_server.requests} == {("messages", "model")}


def test_a_dry_run_asks_nobody_and_writes_nothing(words, teacher_server, tmp_path, capsys):
    assert main([*words, "--dry_run", "--limit", "2"]) == 0
    shown = capsys.readouterr().out
    assert "6 requests, 6 of them still to ask" in shown
    assert [line for line in shown.splitlines() if line.startswith("=====")] == [
        f"===== {kind}: 0.png =====" for kind in ("conversation", "detailed", "reasoning")
    ]
    assert teacher_server.requests == []
    assert not (tmp_path / "out").exists()


def test_a_dry_run_changes_nothing_in_a_folder_that_is_worked_on(words, teacher_server, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    assert main([*words, "--endpoint", teacher_server.url, "--limit", "2"]) == 0
    (tmp_path / "out" / ".lock").unlink()
    with (tmp_path / "out" / "replies.jsonl").open("a") as file:
        file.write('{"request": "ab')
    before = contents(tmp_path / "out")
    with locked(tmp_path / "out", is_kept=True):
        lock = contents(tmp_path / "out").keys() - before.keys()
        assert main([*words, "--dry_run"]) == 0  # it does not wait
    assert "18 requests, 12 of them still to ask" in capsys.readouterr().out
    (tmp_path / "out" / lock.pop()).unlink()
    assert main([*words, "--dry_run"]) == 0
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--limit", "0"], "--limit: expected at least 1, found 0"),
        (["--prompts", "none"], "--prompts: none/conversation.yaml: cannot be read"),
        (["--wording", "none"], "--wording: none: cannot be read"),
        (["--objects", "none"], "--objects: none: cannot be read"),
        (["--endpoint", "x"], "--endpoint: expected a URL such as"),
        (["--model", ""], "--model: expected the name of a model"),
        (["--temperature", "-3"], "--temperature: expected at least 0, found -3"),
        (["--max_tokens", "0"], "--max_tokens: expected at least 1, found 0"),
        (["--max_cost", "-1", "--prices.read", "1"], "--max_cost: expected more than 0, found -1"),
        (["--max_cost", "1", "--prices.read", "-1"], "--prices.read: expected at least 0, found -1"),
        (["--max_cost", "1", "--prices.read", "1", "--max_tokens", "null"], "--max_cost: expected a number of --max_t"),
        (["--endpoint", "http://x", "--num_at_once", "1000000"], "--num_at_once: expected at least 1 and at most"),
        (
            ["--endpoint", "http://x", "--max_cost", "3"],
            "--max_cost: expected --prices.read and --prices.written with it",
        ),
    ],
)
def test_wrong_input_is_one_line(words, change, message, tmp_path, capsys):
    assert main([*words, *change]) == 2
    assert capsys.readouterr().err.startswith(f"llava-pl: error: {message}")
    assert not (tmp_path / "out").exists()


def start(words, tmp_path, teacher_server):
    """Start the command in a process, and return that once some requests were sent."""
    process = subprocess.Popen(
        [sys.executable, "-m", "llava_pl", *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    while len(teacher_server.requests) < 5:
        time.sleep(0.01)
        assert process.poll() is None
    return process


@pytest.mark.app  # a process is started and killed
def test_a_kill_costs_nothing(words, teacher_server, tmp_path):
    teacher_server.reply = scripted_teacher.slowly(write, 0.1)
    words += ["--endpoint", teacher_server.url, "--num_at_once", "1"]
    process = start(words, tmp_path, teacher_server)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.3)  # what was on its way is answered, to nobody
    assert main(words) == 0
    # One reply at most was on its way.
    assert len(teacher_server.requests) in (18, 19)
    assert len(read_records("out/reasoning.json")) == NUM_PICTURES


@pytest.mark.app  # a process is started and killed
def test_what_is_made_after_a_kill_is_what_would_have_been_made(words, teacher_server, tmp_path):
    teacher_server.reply = scripted_teacher.slowly(write, 0.05)
    words += ["--endpoint", teacher_server.url]
    process = start(words, tmp_path, teacher_server)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert main(words) == 0
    assert main([*words[:3], "whole", *words[4:]]) == 0
    killed, whole = contents(tmp_path / "out"), contents(tmp_path / "whole")
    for each in (killed, whole):
        del each["replies.jsonl"]  # in the order in which they came
        each["mixture.yaml"] = each["mixture.yaml"].replace(b"whole/", b"out/")
    assert killed == whole


@pytest.mark.app  # two processes
def test_two_in_one_folder_pay_once(words, teacher_server, tmp_path):
    teacher_server.reply = scripted_teacher.slowly(write, 0.05)
    words += ["--endpoint", teacher_server.url]
    process = start(words, tmp_path, teacher_server)
    assert main(words) == 0
    assert process.wait(20) == 0
    assert "waiting" not in process.stderr.read()  # it was there first
    assert len(teacher_server.requests) == 18


@pytest.mark.app  # a process is started and interrupted
def test_an_interrupt_keeps_what_is_on_its_way(words, teacher_server, tmp_path):
    teacher_server.reply = scripted_teacher.slowly(write, 0.2)
    words += ["--endpoint", teacher_server.url, "--num_at_once", "3"]
    process = start(words, tmp_path, teacher_server)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert process.stderr.read() == "llava-pl: interrupted\n"
    assert read_json("out/report.json")["replies"] == len(teacher_server.requests)  # a set of what is there
    num_asked = len(teacher_server.requests)
    assert num_asked < 12
    assert len((tmp_path / "out" / "replies.jsonl").read_text().splitlines()) == num_asked
    assert main(words) == 0
    assert len(teacher_server.requests) == 18


def test_a_reason_that_there_is_not(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--accept", "objects"])
    error = capsys.readouterr().err
    assert error.startswith("llava-pl: error: ")
    assert "cut_off" in error
    assert error.count("\n") == 1
