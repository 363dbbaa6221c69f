"""Risk: captions are broken or hardly differ, and the memory that it takes to choose among them looks small."""

import sys
import tarfile
from itertools import chain

import caption_balance
import pytest
from caption_balance import PHASES, draw_captions, find_phase, join, spell, watch, write_source

from llava_pl.building.captions import read_captions
from llava_pl.building.survey import look_at

WRITER = """
import sys, time
from pathlib import Path
folder = Path(sys.argv[1])
time.sleep(0.4)
(folder / "parts").mkdir(parents=True)
(folder / "survey.json").touch()
memory = b"x" * 50_000_000
time.sleep(0.4)
del memory
(folder / "parts" / "000000.parquet").touch()
time.sleep(0.4)
(folder / "records.json").touch()
time.sleep(0.4)
"""


def test_phrases_differ():
    ranks = [*range(2000), *range(29_000, 31_000), *range(329_000, 332_000), *range(999_000, 1_000_000)]
    assert len({spell(rank) for rank in ranks}) == len(ranks)
    assert {len(spell(rank).split()) for rank in ranks} == {1, 2, 3}


def test_a_few_phrases_are_in_many_captions_and_many_in_one():
    drawn = list(draw_captions(5000, (0, 0)))
    phrases = list(chain.from_iterable(drawn))
    assert {len(each) for each in drawn} == {1, 2, 3, 4}
    assert 0.15 < phrases.count(spell(0)) / len(phrases) < 0.25
    assert sum(phrases.count(each) == 1 for each in set(phrases)) > 1000
    assert drawn == list(draw_captions(5000, (0, 0))) != list(draw_captions(5000, (1, 0)))


def test_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(caption_balance, "SAMPLES_PER_SHARD", 4)
    write_source(tmp_path / "source", 10, seed=3)
    found = list(read_captions(tmp_path / "source"))
    assert [each.image for each in found][::3] == [f"{n // 4:05d}/{n:09d}.png" for n in (0, 3, 6, 9)]
    assert [each.text for each in found[:4]] == [join(phrases) for phrases in draw_captions(4, (3, 0))]
    looked = [look_at(each, min_pixels=32) for each in found]
    assert {reason for reason, _, _ in looked} == {""}
    assert len({digest for _, _, digest in looked}) == 10
    with tarfile.open(tmp_path / "source" / "00002.tar") as archive:
        assert [member.name for member in archive] == [f"{n:09d}.{end}" for n in (8, 9) for end in ("png", "txt")]


def test_phases_and_the_memory_of_each(tmp_path, monkeypatch):
    monkeypatch.setattr(caption_balance, "SECONDS_BETWEEN_LOOKS", 0.02)
    found = watch([sys.executable, "-c", WRITER, str(tmp_path / "pairs")], tmp_path / "pairs", num_parts=1)
    assert find_phase(tmp_path / "pairs", 1) == PHASES[-1]
    assert all(found["phases"][phase]["seconds"] > 0 for phase in PHASES)
    main = {phase: found["phases"][phase]["mb_main"] for phase in PHASES}
    assert main["survey"] > main["read"] + 40
    assert found["mb_main"] == found["mb_all"] == main["survey"]
    assert found["mb_worker"] == 0


def test_a_command_that_fails_is_no_result(tmp_path):
    with pytest.raises(SystemExit, match="ended with status 3"):
        watch([sys.executable, "-c", "raise SystemExit(3)"], tmp_path, num_parts=1)
