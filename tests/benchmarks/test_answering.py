"""Risk: ways whose answers differ are timed all the same, or a way of answering breaks unseen."""

import sys
from types import SimpleNamespace

import pytest
from answering import main, measure


def way(**answers):
    return SimpleNamespace(ask=lambda **_: {"answers": answers}), {}


@pytest.mark.parametrize("answers", [{"1": "A", "2": "C"}, {"1": "A"}, {"1": "A", "2": "B", "3": "B"}])
def test_other_answers_stop_the_run(answers):
    ways = {"ours": way(**{"1": "A", "2": "B"}), "theirs": way(**answers)}
    with pytest.raises(SystemExit, match=r"B7: answers that differ from those of 'ours': {'ours': 0, 'theirs': 1}"):
        measure("B7", ways, num_rounds=1, num_warm_ups=0)


@pytest.mark.slow
def test_ours_and_transformers_give_the_same_answers(golden_path, capsys, monkeypatch):
    words = ["--tokenizer", str(golden_path / "llama2_tokenizer"), "--questions", "6", "--pictures", "1"]
    monkeypatch.setattr(sys, "argv", ["answering.py", *words, "--quick", "--rounds", "1", "--batch-size", "4"])
    main()
    said = capsys.readouterr().out
    assert "B7: 6 equal answers" in said
    assert "B8: 8 equal answers" in said
