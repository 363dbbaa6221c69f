"""A small pipeline of spaCy's for tests, trained here: none for English is handed on as a package."""

import random
from pathlib import Path

import pytest

ADJECTIVES = ("red", "green", "blue", "small", "old", "wooden")
NOUNS = ("square", "circle", "triangle", "dog", "cat", "man", "table", "grass", "horse")
PREPOSITIONS = ("on", "in", "with", "near", "beside", "at")


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory) -> Path:
    """A pipeline that parses captions of a few words, as en_core_web_sm parses English."""
    spacy = pytest.importorskip("spacy")
    from spacy.tokens import Doc
    from spacy.training import Example

    rng, nlp = random.Random(0), spacy.blank("en")
    nlp.add_pipe("morphologizer")
    nlp.add_pipe("parser")
    examples = []
    for _ in range(150):
        rows = _parse(rng)
        names = ("words", "pos", "heads", "deps")
        reference = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        examples.append(Example.from_dict(Doc(nlp.vocab, words=reference["words"]), reference))
    optimizer = nlp.initialize(lambda: examples)
    for _ in range(8):
        rng.shuffle(examples)
        for start in range(0, len(examples), 32):
            nlp.update(examples[start : start + 32], sgd=optimizer)
    folder = tmp_path_factory.mktemp("spacy") / "pipeline"
    nlp.to_disk(folder)
    return folder


def _parse(rng: random.Random) -> list[tuple[str, str, int, str]]:
    """Draw a caption: word, part of speech, head and dependency of each of its words."""
    rows: list[tuple[str, str, int, str]] = []

    def add_phrase(head: int | None, dependency: str) -> int:
        before = [(rng.choice(("a", "the")), "DET", "det")] * (rng.random() < 0.8)
        before += [(rng.choice(ADJECTIVES), "ADJ", "amod") for _ in range(rng.choice((0, 1, 1, 2)))]
        noun = len(rows) + len(before)
        rows.extend((word, tag, noun, name) for word, tag, name in before)
        rows.append((rng.choice(NOUNS), "NOUN", noun if head is None else head, dependency))
        return noun

    last = add_phrase(None, "ROOT")
    for _ in range(rng.choice((0, 1, 2))):
        if rng.random() < 0.5:
            rows.append((rng.choice(PREPOSITIONS), "ADP", last, "prep"))
            last = add_phrase(len(rows) - 1, "pobj")
        else:
            rows.append(("and", "CCONJ", last, "cc"))
            last = add_phrase(last, "conj")
    return rows
