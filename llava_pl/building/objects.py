"""Names of objects in texts: which categories a sentence speaks of, in which word, and how many it says there are.

In: a file of names, and the categories of a set of descriptions. Out: a `Mention` for each place in a text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from llava_pl.types import InputError

NAMES = Path(__file__).parent / "objects.yaml"

_NUMBER_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
NUMBERS = dict(zip(_NUMBER_WORDS, range(1, 13), strict=True))

_NEGATION = re.compile(r"\b(?:no|not|without|never|nor|neither|\w+n't)\b[^.!?;:]*$", re.IGNORECASE)
_ADJECTIVES = r"(?:\s+(?!of\b|the\b|and\b|an?\b)[a-z-]+){0,2}"
_NUMBER = re.compile(rf"\b({'|'.join(NUMBERS)}|\d{{1,2}}){_ADJECTIVES}\s+$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Mention:
    """A category in a text.

    Args:
        category: Its name.
        word: As the text has it.
        number: How many the text says, None where it says none.
        is_denied: Whether the clause before it says no, so that nothing may be there.
        before: What the sentence says before it.
    """

    category: str
    word: str
    number: int | None
    is_denied: bool
    before: str


class Objects:
    """Finds categories in texts by their names, in singular and plural.

    Args:
        categories: All that a set of descriptions has boxes of.
        names: Further names of categories; None for a category that is not looked for, as its name is also another
            word. Those of no category in the set are looked for as well.
    """

    def __init__(self, categories: Iterable[str], names: Mapping[str, list[str] | None]) -> None:
        self._category: dict[str, str] = {}
        for category in sorted({*categories, *names}):
            others = names.get(category, [])
            for name in () if others is None else (category, *others):
                for form in (name, *_plurals(name)):
                    self._category.setdefault(form.lower(), category)
        # The longest first: a hot dog is no dog.
        forms = sorted(self._category, key=lambda form: (-len(form), form))
        self._pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, forms)) or '(?!)'})\b", re.IGNORECASE)

    def find(self, text: str) -> Iterator[Mention]:
        """Yield the mentions in a text, in order.

        >>> [(m.category, m.word, m.number) for m in Objects(["dog"], {}).find("Two small dogs, and no DOG more.")]
        [('dog', 'dogs', 2), ('dog', 'DOG', None)]
        """
        for match in self._pattern.finditer(text):
            before = re.split(r"[.!?\n]", text[: match.start()])[-1]
            number = _NUMBER.search(before)
            yield Mention(
                category=self._category[match.group().lower()],
                word=match.group(),
                number=_value(number[1]) if number else None,
                is_denied=_NEGATION.search(before) is not None,
                before=before,
            )


def read_names(path: Path = NAMES) -> dict[str, list[str] | None]:
    """Return the names of a file, by category.

    Raises:
        InputError: The file cannot be read, or is of another form.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--objects: {path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    except yaml.YAMLError as error:
        raise InputError(f"--objects: {path}: invalid YAML: {' '.join(str(error).split())}") from error
    names = content if isinstance(content, dict) else {"": content}
    for category, others in names.items():
        is_list = isinstance(others, list) and all(isinstance(name, str) and name for name in others)
        if not (isinstance(category, str) and category and (others is None or is_list)):
            raise InputError(f"--objects: {path}: expected CATEGORY: [NAME, ...], found {category!r}: {others!r}")
    return names


def _plurals(name: str) -> tuple[str, ...]:
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return (f"{name[:-1]}ies",)
    return (f"{name}es",) if name.endswith(("s", "x", "z", "ch", "sh")) else (f"{name}s",)


def _value(word: str) -> int:
    return NUMBERS.get(word.lower()) or int(word)
