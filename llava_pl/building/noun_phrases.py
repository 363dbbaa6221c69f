"""Captions to the noun phrases in them, which stand for the concepts that a picture shows.

In: texts. Out: phrases of each, found by a pipeline of spaCy's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache
from hashlib import blake2b
from importlib import metadata
from typing import TYPE_CHECKING

from llava_pl.types import InputError

if TYPE_CHECKING:
    from spacy.language import Language

UNUSED = ("ner", "lemmatizer", "textcat")
POINTING = ("DET", "PRON", "PUNCT", "SPACE")
_TEXTS_AT_ONCE = 100  # with 1,000 a process needs 200 MB more, and is no faster


@cache  # a second one would lie in memory beside the first, which is freed late
def load_pipeline(name: str) -> Language:
    """Return a pipeline that finds noun phrases, the same one each time.

    Args:
        name: Of an installed package such as en_core_web_sm, or a folder.

    Raises:
        InputError: spaCy or the pipeline is not there, or it does not parse.
    """
    try:
        import spacy
    except ImportError as error:
        raise InputError("--balance: needs spaCy; pip install -e '.[captions]' in the checkout") from error
    try:
        pipeline = spacy.load(name, exclude=UNUSED)
    except OSError as error:
        raise InputError(
            f"--spacy: {name}: expected an installed pipeline or its folder, found none; `python -m spacy download "
            f"{name}` gets those of spaCy's authors"
        ) from error
    if not pipeline.has_pipe("parser"):
        raise InputError(f"--spacy: {name}: expected a pipeline with a parser, found {', '.join(pipeline.pipe_names)}")
    return pipeline


def describe_pipeline(pipeline: Language) -> str:
    """Return the version of a pipeline and a hash of what it says of itself, its scores among that."""
    meta = pipeline.meta
    digest = blake2b(json.dumps(meta, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()
    return f"{meta['lang']}_{meta['name']} {meta['version']}, spaCy {metadata.version('spacy')}, {digest}"


def find_phrases(pipeline: Language, texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield the different noun phrases of each text, in alphabetical order.

    A phrase is in lower case, and without words that only point (a, the, this, his): "A red ball" and "the red ball"
    are one concept. The paper does not say what it did there.

    Args:
        pipeline: What `load_pipeline` returns.
        texts: Captions.
    """
    for doc in pipeline.pipe(texts, batch_size=_TEXTS_AT_ONCE):
        phrases = (" ".join(token.lower_ for token in chunk if token.pos_ not in POINTING) for chunk in doc.noun_chunks)
        yield sorted(set(phrases) - {""})
