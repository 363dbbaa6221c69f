"""Guards answers that a kill would lose, or that another model gave."""

from llava_pl.training.answers_so_far import AnswersSoFar

MADE_WITH = {"model": "m", "template": "v1"}


def test_answers_come_back(tmp_path):
    kept = AnswersSoFar(tmp_path / "predictions", "pope-test-step0", MADE_WITH, rank=0)
    assert kept.read() == {}
    kept.begin({3: ("yes", None)})
    kept.add({5: ("two\nlines \u2028", {"A": -1.5}), 4: ("", None)})
    again = AnswersSoFar(tmp_path / "predictions", "pope-test-step0", dict(reversed(MADE_WITH.items())), rank=0)
    assert again.read() == {3: ("yes", None), 5: ("two\nlines \u2028", {"A": -1.5}), 4: ("", None)}


def test_ranks_read_each_others(tmp_path):
    for rank in range(2):
        kept = AnswersSoFar(tmp_path, "x", MADE_WITH, rank)
        kept.begin({})
        kept.add({rank: (str(rank), None)})
    assert AnswersSoFar(tmp_path, "x", MADE_WITH, rank=7).read() == {0: ("0", None), 1: ("1", None)}
    kept.end()
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_a_kill_cut_off_is_left_out(tmp_path):
    kept = AnswersSoFar(tmp_path, "x", MADE_WITH, rank=0)
    kept.begin({})
    kept.add({1: ("whole", None), 2: ("cut", None)})
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-4])
    assert kept.read() == {1: ("whole", None)}


def test_answers_of_another_model_or_set_are_left_out(tmp_path):
    kept = AnswersSoFar(tmp_path, "x", MADE_WITH, rank=0)
    kept.begin({1: ("mine", None)})
    assert AnswersSoFar(tmp_path, "x", {**MADE_WITH, "model": "n"}, rank=0).read() == {}
    assert AnswersSoFar(tmp_path, "y", MADE_WITH, rank=0).read() == {}
    assert kept.read() == {1: ("mine", None)}


def test_a_new_beginning_replaces_the_file(tmp_path):
    kept = AnswersSoFar(tmp_path, "x", MADE_WITH, rank=0)
    kept.begin({1: ("old", None)})
    kept.begin({2: ("new", None)})
    assert kept.read() == {2: ("new", None)}
    assert [path.name for path in tmp_path.iterdir()] == [".x.so-far.0.jsonl"]
