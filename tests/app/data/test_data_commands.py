"""Guards: a check that ends with 0 on bad data, a slow help page, an hour of work that cannot be written."""

import json

import pytest

from llava_pl.app.data.data_commands import HELP
from llava_pl.cli import main


def error_of(capsys, words):
    assert main(["data", *words]) == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("words", "status"), [([], 2), (["-h"], 0), (["--help"], 0)])
def test_help(capsys, words, status):
    assert main(["data", *words]) == status
    assert capsys.readouterr().out == HELP


def test_unknown_command(capsys):
    assert error_of(capsys, ["inspect"]) == (
        "llava-pl: error: data: unknown command 'inspect'; expected one of view, check, captions, instruct, convert, "
        "split, stats, scienceqa, ledger"
    )


@pytest.mark.parametrize("option", ["--html", "--quarantine"])
@pytest.mark.parametrize(("place", "found"), [(".", "a folder"), ("nowhere/a.json", "no folder nowhere")])
def test_place_that_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch, capsys, option, place, found):
    monkeypatch.chdir(tmp_path)
    expected = f"llava-pl: error: {option}: {place}: expected a file in a folder that exists, found {found}"
    assert error_of(capsys, ["check", option, place]) == expected


@pytest.mark.parametrize(
    ("option", "name", "message"),
    [
        ("--quarantine", "records.json", "a new file or a quarantine"),
        ("--html", "records.json", "a new file or a page (.html)"),
    ],
)
def test_another_file_is_never_overwritten(zoo, capsys, option, name, message):
    before = (zoo / name).read_bytes()
    words = ["check", "--config", str(zoo / "config.yaml"), option, str(zoo / name)]
    assert error_of(capsys, words) == (
        f"llava-pl: error: {option}: {zoo / name}: expected {message}, found another file; choose another name"
    )
    if option == "--html":
        assert message in error_of(capsys, ["view", *words[1:]])
    assert (zoo / name).read_bytes() == before


def test_results_are_written_anew(zoo, capsys):
    results = ["--quarantine", str(zoo / "bad.json"), "--html", str(zoo / "check.HTM")]
    found = []
    for _ in range(2):
        assert main(["data", "check", "--config", str(zoo / "config.yaml"), *results]) == 1
        found.append((zoo / "bad.json").read_bytes())
    assert found[0] == found[1]


def test_number_of_workers_is_checked(capsys):
    assert error_of(capsys, ["check", "--workers", "-1"]) == "llava-pl: error: --workers: expected at least 0, found -1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["view", "--index", "x"],
            "argument --index: invalid int value: 'x'; `llava-pl data view --help` lists the options",
        ),
        (["view", "--place", "1"], "--place: no such option; --help lists all options"),
        (
            ["check", "--data.records", '[{"path": "a.json", "repeats": "abc"}]'],
            "--data.records: item 0: repeats: expected a number such as 2.5, found 'abc'",
        ),
        (["check", "--data.seedd", "3"], "--data.seedd: no such option; did you mean data.init_args.seed?"),
    ],
)
def test_wrong_option_is_one_line(zoo, capsys, words, message):
    with pytest.raises(SystemExit, match="2"):
        main(["data", *words[:1], "--config", str(zoo / "config.yaml"), *words[1:]])
    assert capsys.readouterr().err == f"llava-pl: error: {message}\n"


def test_view_shows_a_record_and_writes_a_page(zoo, capsys):
    page = zoo / "view.html"
    assert main(["data", "view", "--config", str(zoo / "config.yaml"), "--index", "2", "--html", str(page)]) == 0
    output = capsys.readouterr()
    assert output.out.startswith(
        "record 2 of records, id 'gif_named_jpg': 210 tokens, 13 supervised (6.2 %), 1 image\n"
    )
    assert "Record 2 of records, id &#x27;gif_named_jpg&#x27;" in page.read_text()
    assert not output.err


def test_view_shows_marks_around_pictures(zoo, capsys):
    words = ["--data.image_start_end", "true", "--index", "2", "--html", str(zoo / "view.html")]
    assert main(["data", "view", "--config", str(zoo / "config.yaml"), *words]) == 0
    assert capsys.readouterr().out.startswith(
        "record 2 of records, id 'gif_named_jpg': 212 tokens, 13 supervised (6.1 %), 1 image\n"
    )
    page = (zoo / "view.html").read_text()
    assert page.index("&lt;im_start&gt;") < page.index("&lt;im_end&gt;")


@pytest.mark.parametrize(("index", "message"), [("99", "from 0 to 31, found 99 of 32"), ("-1", "found -1 of 32")])
def test_view_of_no_record(zoo, capsys, index, message):
    assert message in error_of(capsys, ["view", "--config", str(zoo / "config.yaml"), "--index", index])


@pytest.mark.parametrize(("index", "message"), [("20", "found 'system'"), ("3", "cannot open picture")])
def test_view_of_a_bad_record_says_what_is_wrong(zoo, capsys, index, message):
    assert message in error_of(capsys, ["view", "--config", str(zoo / "config.yaml"), "--index", index])


def test_check_finds_what_is_bad_and_its_quarantine_is_enough_to_train(zoo, zoo_reasons, capsys):
    words = ["--config", str(zoo / "config.yaml")]
    results = ["--quarantine", str(zoo / "bad.json"), "--html", str(zoo / "check.html")]
    assert main(["data", "check", *words, *results, "--workers", "2"]) == 1
    assert f"{len(zoo_reasons)} of 32 records are bad" in capsys.readouterr().out
    content = json.loads((zoo / "bad.json").read_text())
    assert content["sources"]["records"]["records"] == 32
    entries = content["records"]
    assert {entry["index"]: entry["reason"] for entry in entries} == zoo_reasons
    assert all(entry.keys() == {"source", "index", "id", "reason", "message"} for entry in entries)
    assert "picture_broken: 4 records" in (zoo / "check.html").read_text()

    words += ["--data.bad_records", "quarantine", "--data.quarantine", str(zoo / "bad.json")]
    assert main(["fit", *words, "--run_dir", str(zoo / "run"), "--trainer.logger", "false"]) == 0
    assert (zoo / "run" / "checkpoints" / "last.ckpt").resolve().name == "step=5.ckpt"  # ten records, two at a time


def test_a_quarantine_covers_validation(zoo, capsys):
    words = ["--config", str(zoo / "config.yaml"), "--data.val_records", str(zoo / "records.json")]
    assert main(["data", "check", *words, "--quarantine", str(zoo / "bad.json")]) == 1
    output = capsys.readouterr().out
    assert "note: records: 22 of 32 are bad\nnote: data.val_records: 22 of 32 are bad\n" in output
    words += ["--data.bad_records", "quarantine", "--data.quarantine", str(zoo / "bad.json")]
    assert main(["fit", *words, "--run_dir", str(zoo / "run"), "--trainer.logger", "false"]) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "data.records: expected names that differ, found records for "),
        ({"name": "b", "repeats": ".nan"}, "data.records: b: repeats: expected a number, found nan; write how"),
        ({"name": "b", "repeats": 0}, "data.records: b: repeats: expected more than 0 and at most 1000, found 0"),
        ({"name": "b", "repeats": 0.01}, "data.records: b: an epoch holds none of its records; leave the source out"),
    ],
)
@pytest.mark.parametrize("command", [["data", "check"], ["fit"]])
def test_check_refuses_the_mixtures_that_fit_refuses(zoo, capsys, command, changes, message):
    good = json.loads((zoo / "records.json").read_text())[:1]
    (zoo / "records.json").write_text(json.dumps(good))
    sources = [str(zoo / "records.json"), {"path": str(zoo / "records.json")} | changes]
    records = json.dumps(sources).replace('".nan"', ".nan")  # as YAML writes it
    words = ["--data.records", records, "--data.val_records", str(zoo / "records.json")]
    words += ["--run_dir", str(zoo / "run")] if command == ["fit"] else []
    assert main([*command, "--config", str(zoo / "config.yaml"), *words]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"llava-pl: error: {message}")


def test_check_of_good_data(zoo, capsys):
    entries = json.loads((zoo / "records.json").read_text())
    (zoo / "good.json").write_text(json.dumps(entries[:1]))
    words = ["--config", str(zoo / "config.yaml"), "--data.records", str(zoo / "good.json")]
    assert main(["data", "check", *words]) == 0
    assert capsys.readouterr().out == "all 1 records are good\n"


def test_check_without_records(zoo, capsys):
    (zoo / "none.json").write_text("[]")
    words = ["--config", str(zoo / "config.yaml"), "--data.records", str(zoo / "none.json")]
    expected = "llava-pl: error: data: no records to check; give the data module a training file"
    assert error_of(capsys, ["check", *words]) == expected


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_setting_that_is_wrong_for_every_record_is_no_bad_record(zoo, capsys, workers):
    words = ["--config", str(zoo / "config.yaml"), "--data.template", "chat", "--workers", workers]
    assert "tokenizer has no chat template" in error_of(capsys, ["check", *words])
