"""Guards the concepts of captions: one concept under two names, a word that is none, a pipeline that is not there."""

import pytest

from llava_pl.building.noun_phrases import find_phrases, load_pipeline
from llava_pl.types import InputError

pytestmark = pytest.mark.app  # spaCy's pipeline is trained first


def test_phrases(pipeline_folder):
    texts = ["A red dog on the wooden table", "the red dog and a cat", "the red dog near a red dog", ""]
    assert list(find_phrases(load_pipeline(str(pipeline_folder)), texts)) == [
        ["red dog", "wooden table"],
        ["cat", "red dog"],
        ["red dog"],
        [],
    ]


def test_a_pipeline_is_loaded_once(pipeline_folder):
    assert load_pipeline(str(pipeline_folder)) is load_pipeline(str(pipeline_folder))


def test_a_pipeline_that_is_not_there(pipeline_folder, tmp_path):
    with pytest.raises(
        InputError, match="--spacy: none_such: expected an installed pipeline or its folder, found none"
    ):
        load_pipeline("none_such")
    import spacy

    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(InputError, match="expected a pipeline with a parser"):
        load_pipeline(str(tmp_path / "blank"))
