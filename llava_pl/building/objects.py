"""Names of objects in texts: which categories a sentence speaks of, in which word, and how many it says there are.

In: a file of names, and the categories of a set of descriptions. Out: a `Mention` for each place in a text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llava_pl.building.numbers import LEAST_BEFORE, as_number
from llava_pl.building.own_files import read_yaml
from llava_pl.types import InputError

NAMES = Path(__file__).parent / "objects.yaml"

_REACH = 400
"""Characters of a sentence before and behind a mention: a text that never ends its sentence is read in linear time."""

_IRREGULAR_PLURALS = ("men", "children", "people", "cattle", "mice", "sheep", "knives")


@dataclass(frozen=True, slots=True)
class Names:
    """What objects are called.

    Args:
        names: By category; None for one that is not looked for, as its name is also another word. Categories that no
            set of descriptions has are looked for as well.
        told_by: Further words and categories that tell of a category, by category.
        ignored: Phrases that name no object, though a name is in them.
        general: Words for any of a category, that need not be there.
        uncounted: Categories whose boxes do not say how many there are.
    """

    names: Mapping[str, list[str] | None] = field(default_factory=dict)
    told_by: Mapping[str, list[str]] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    general: list[str] = field(default_factory=list)
    uncounted: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Mention:
    """A category in a text.

    Args:
        category: Its name.
        word: As the text has it.
        number: How many the text says at least, None where it says none.
        before: What the sentence says before it.
        after: What it says behind it.
        is_general: Whether the word is one for any of them.
        is_own: Whether the word is general, or the category itself and no kind of it.
    """

    category: str
    word: str
    number: int | None
    before: str
    after: str
    is_general: bool
    is_own: bool

    @property
    def is_plural(self) -> bool:
        """Whether it is of several, as far as the word shows."""
        word = self.word.lower()
        return word in _IRREGULAR_PLURALS or (word.endswith("s") and word != self.category)


class Objects:
    """Finds categories in texts by their names, in singular and plural.

    Args:
        categories: All that a set of descriptions has boxes of.
        names: What they are called.
    """

    def __init__(self, categories: Iterable[str], names: Names) -> None:
        self.uncounted = frozenset(names.uncounted)
        self._general = frozenset(names.general)
        self._category: dict[str, str | None] = {phrase.lower(): None for phrase in names.ignored}
        self._tells: dict[str, set[str]] = {}
        for category in sorted({*categories, *names.names}):
            others = names.names.get(category, [])
            own = () if others is None else (category, *others)
            for form in _forms(own):
                self._category.setdefault(form, category)
            for form in _forms((category, *own, *names.told_by.get(category, ()))):
                self._tells.setdefault(f" {form} ", set()).add(category)
        # The longest first: a hot dog is no dog.
        forms = sorted(self._category, key=lambda form: (-len(form), form))
        self._pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, forms)) or '(?!)'})\b", re.IGNORECASE)

    def find(self, text: str) -> Iterator[Mention]:
        """Yield the mentions in a text, in order.

        >>> [(m.category, m.word, m.number) for m in Objects(["dog"], Names()).find("Two small dogs, and no DOG more.")]
        [('dog', 'dogs', 2), ('dog', 'DOG', None)]
        """
        for match in self._pattern.finditer(text):
            word = match.group().lower()
            category = self._category[word]
            if category is None:
                continue
            before = re.split(r"[.!?;\n]", text[max(0, match.start() - _REACH) : match.start()])[-1]
            number = LEAST_BEFORE.search(before)
            yield Mention(
                category=category,
                word=match.group(),
                number=as_number(number[1]) if number else None,
                before=before,
                after=re.split(r"(?<=[.!?;])|\n", text[match.end() : match.end() + _REACH])[0],
                is_general=word in self._general,
                is_own=word in self._general or word in _forms((category,)),
            )

    def told(self, texts: Iterable[str]) -> set[str]:
        """Return the categories that captions, or categories with boxes, tell of."""
        words = f" {re.sub(r'[^a-z0-9]+', ' ', '  '.join(texts).lower())} "
        return {category for form, categories in self._tells.items() if form in words for category in categories}


def read_names(path: Path = NAMES) -> Names:
    """Return the names of a file.

    Raises:
        InputError: The file cannot be read, or is of another form.
    """
    content = read_yaml(path, "--objects")
    parts = content if isinstance(content, dict) else {"": content}
    for part, value in parts.items():
        if part in ("names", "told_by"):
            rows = value if isinstance(value, dict) else {"": 0}
            for category, others in rows.items():
                may_be_null = part == "names" and others is None
                if not (isinstance(category, str) and category and (may_be_null or _is_words(others))):
                    raise InputError(f"--objects: {path}: {part}: expected CATEGORY: [NAME, ...], found {rows!r:.80}")
        elif part not in ("ignored", "general", "uncounted"):
            expected = "names, told_by, ignored, general and uncounted"
            raise InputError(f"--objects: {path}: expected {expected}, found {part!r}; put names below 'names:'")
        elif not _is_words(value):
            raise InputError(f"--objects: {path}: {part}: expected a list of words, found {value!r:.80}")
    return Names(**parts)


def _is_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) and word for word in value)


def _forms(names: Iterable[str]) -> Iterator[str]:
    """Yield singulars and plurals."""
    for name in map(str.lower, names):
        yield name
        if name.endswith("y") and name[-2:-1] not in "aeiou":
            yield f"{name[:-1]}ies"
        else:
            yield f"{name}es" if name.endswith(("s", "x", "z", "ch", "sh")) else f"{name}s"
