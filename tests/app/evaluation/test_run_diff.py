"""Guards the comparison of runs: a difference that is not shown, or noise that looks like one."""

import json

import pytest
import yaml

from llava_pl.app.evaluation.run_diff import compare_runs
from llava_pl.evaluation.answers import write_answers
from llava_pl.ledger_file import Plan, Segment, encode_entry
from llava_pl.types import InputError


def make_run(folder, letters="AABB", *, seed=0, rate=1e-3, steps=((3, 1), (0, 2)), torch="2.13.0"):
    folder.mkdir(parents=True)
    config = {"seed_everything": seed, "model": {"optim": {"learning_rate": rate}}, "run_dir": str(folder)}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "environment.json").write_text(json.dumps({"packages": {"torch": torch}, "python": "3.11"}))
    (folder / "ledger").mkdir()
    Plan(4, is_cut_short=False, segments=(Segment(0, 1),)).write(folder)
    entries = b"".join(encode_entry(number, 0, indices) for number, indices in enumerate(steps))
    (folder / "ledger" / "rank-0.bin").write_bytes(entries)
    rows = [
        {"question_id": str(n), "prompt": "?", "text": letter, "read": letter, "credit": float(letter == "A")}
        for n, letter in enumerate(letters)
    ]
    write_answers(folder / "predictions" / "scienceqa-val-step2.jsonl", rows)
    return folder


def tables(report):
    return {table.title: table.rows for table in report.tables}


def test_equal_runs(tmp_path):
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    report = compare_runs(first, second)
    found = tables(report)
    assert found["Settings that differ: none"] == ()
    assert found["Versions that differ: none"] == ()
    ((_, order),) = found["Order of the data"]
    assert order.startswith("the same in all 2 steps that both took (hash ")
    assert found["scienceqa-val: 0 of 4 answers differ"] == ()
    assert dict(found["scienceqa-val: mean credit of 4 questions"])["difference"].startswith("+0.00 (-")


def test_all_that_differs(tmp_path):
    first = make_run(tmp_path / "a")
    second = make_run(tmp_path / "b", "AAAB", rate=2e-3, steps=((1, 3), (0, 1)), torch="2.12.0")
    found = tables(compare_runs(first, second))
    assert found["Settings that differ"] == (("model.optim.learning_rate", "0.001", "0.002"),)
    assert found["Versions that differ"] == (("packages.torch", "2.13.0", "2.12.0"),)
    # The same samples in another order within a step are the same step.
    assert found["Order of the data"] == (
        ("training samples", "other samples from step 1 on; the 1 steps before it are the same"),
    )
    assert found["scienceqa-val: 1 of 4 answers differ"] == (("2", "B", "A"),)
    scores = dict(found["scienceqa-val: mean credit of 4 questions"])
    assert scores["difference"].startswith("+25.00 (-33.33 to +66.67)")
    assert (scores["the first better"], scores["the second better"], scores["p (test)"]) == ("0", "1", "1 (McNemar)")
    assert scores["steps"] == "2 and 2"
    assert scores["seed noise"] == "not known: give runs with other seeds, --seeds RUN"


def test_difference_beside_seed_noise(tmp_path):
    first, second = make_run(tmp_path / "a", "AABB"), make_run(tmp_path / "b", "AAAA", rate=2e-3)
    others = [make_run(tmp_path / "c", "ABBB", seed=1), make_run(tmp_path / "d", "AAAB", seed=2)]
    scores = dict(tables(compare_runs(first, second, others))["scienceqa-val: mean credit of 4 questions"])
    # Means 50, 25, 75: a deviation of 25, so two runs lie apart by 35.36; the difference is 50.
    assert scores["seed noise"] == "35.36 between two of 3 seeds; the difference is 1.4 times that"


def test_two_seeds_say_little(tmp_path):
    first, second = make_run(tmp_path / "a", "AABB"), make_run(tmp_path / "b", "AAAA", rate=2e-3)
    others = [make_run(tmp_path / "c", "ABBB", seed=1)]
    scores = dict(tables(compare_runs(first, second, others))["scienceqa-val: mean credit of 4 questions"])
    # Means 50 and 25: a deviation of 17.68, so two runs lie apart by 25.
    assert scores["seed noise"] == "25.00 between two of 2 seeds, too few to say how sure that is"


def test_runs_with_other_settings_are_no_seeds(tmp_path):
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b", rate=2e-3)
    other = make_run(tmp_path / "c", seed=1, rate=3e-3)
    with pytest.raises(InputError, match=r"--seeds: .*c: expected .* but for seed_everything, found others: model"):
        compare_runs(first, second, [other])


def test_seeds_are_other_runs(tmp_path):
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b", rate=2e-3)
    other, again = make_run(tmp_path / "c", seed=1), make_run(tmp_path / "d", seed=1)
    with pytest.raises(InputError, match="--seeds: expected other runs than RUN_A, each once"):
        compare_runs(first, second, [first])
    with pytest.raises(InputError, match="--seeds: expected other runs than RUN_A, each once"):
        compare_runs(first, second, [other, tmp_path / "a" / ".." / "c"])
    with pytest.raises(InputError, match="expected a seed_everything of its own for each run, found 0, 1, 1"):
        compare_runs(first, second, [other, again])


def test_questions_of_one_run_alone_are_told(tmp_path):
    first, second = make_run(tmp_path / "a", "AABB"), make_run(tmp_path / "b", "AAB")
    report = compare_runs(first, second)
    assert report.notes == ("scienceqa-val: 1 questions were asked of one of the two alone, and are left out",)


def test_questions_about_one_picture_are_drawn_together(tmp_path):
    runs = [make_run(tmp_path / name) for name in "ab"]
    for folder, letters in zip(runs, ("A" * 40, "AABB" * 10), strict=True):
        for name, size in (("apart", 1), ("together", 4)):
            rows = [
                {"question_id": str(n), "prompt": "?", "text": x, "credit": float(x == "A"), "image": str(n // size)}
                for n, x in enumerate(sorted(letters))
            ]
            write_answers(folder / "predictions" / f"{name}-val-step2.jsonl", rows)
    found = tables(compare_runs(*runs))
    apart, together = (dict(found[f"{name}-val: mean credit of 40 questions"]) for name in ("apart", "together"))
    assert apart["difference"].startswith("-50.00 (-6")
    assert together["difference"].startswith("-50.00 (-7")


def test_runs_without_a_common_step(tmp_path):
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b", steps=())
    ((_, order),) = tables(compare_runs(first, second))["Order of the data"]
    assert order == "no step that both have taken"


def test_answers_that_were_not_asked_alike(tmp_path):
    runs = [make_run(tmp_path / name) for name in "ab"]
    for folder, template in zip(runs, ("plain", "vicuna_v1"), strict=True):
        path = folder / "predictions" / "scienceqa-val-step2.jsonl"
        write_answers(path, [{"question_id": "0", "prompt": "?", "text": "A"}], {"answers": {"template": template}})
    report = compare_runs(*runs)
    assert report.notes == ("scienceqa-val: the two were not asked alike: template: 'plain' and 'vicuna_v1'",)


def test_runs_that_differ_in_their_seed_alone(tmp_path):
    report = compare_runs(make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=7))
    assert report.notes == ("the two runs differ in their seed alone: what differs below is its noise",)


def test_runs_without_ledger_answers_and_versions(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("x: 1\n")
    report = compare_runs(tmp_path / "a", tmp_path / "b")
    assert tables(report)["Order of the data"] == (("training samples", "not known: one of them has no ledger"),)
    assert report.notes == ("the two runs have no answers to the same questions",)


def test_the_answers_of_the_last_step_count(tmp_path):
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    rows = [{"question_id": "0", "prompt": "?", "text": "new"}]
    write_answers(second / "predictions" / "scienceqa-val-step9.jsonl", rows)
    write_answers(second / "predictions" / "scienceqa-val-step9-grey-image.jsonl", rows)
    older = [{**rows[0], "text": "written later"}]
    write_answers(second / "predictions" / "scienceqa-val-step1.jsonl", older)
    found = tables(compare_runs(first, second))
    assert found["scienceqa-val: 1 of 1 answers differ"] == (("0", "A", "new"),)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(InputError, match=r"no config\.yaml; expected the folder of a run"):
        compare_runs(tmp_path, tmp_path)
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(InputError, match=r"config\.yaml: cannot be read"):
        compare_runs(tmp_path, tmp_path)
    (tmp_path / "config.yaml").write_text("- a\n")
    with pytest.raises(InputError, match=r"config\.yaml: expected settings, found list"):
        compare_runs(tmp_path, tmp_path)
    (tmp_path / "config.yaml").write_text("a: 1\n")
    (tmp_path / "environment.json").write_text("{")
    with pytest.raises(InputError, match=r"environment\.json: invalid JSON"):
        compare_runs(tmp_path, tmp_path)


def test_two_questions_about_one_picture_are_two(tmp_path):
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    for folder, texts in ((first, "AA"), (second, "BA")):
        rows = [
            {"question_id": "1.png", "prompt": f"{n}?", "text": text, "read": text, "credit": float(text == "A")}
            for n, text in enumerate(texts)
        ]
        write_answers(folder / "predictions" / "mme-test-step0.jsonl", rows)
    found = tables(compare_runs(first, second))
    assert found["mme-test: 1 of 2 answers differ"] == (("1.png", "A", "B"),)
    assert dict(found["mme-test: mean credit of 2 questions"])["difference"].startswith("-50.00")
