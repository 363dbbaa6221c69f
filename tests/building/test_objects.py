"""Guards names of objects in texts: an object that is missed, one that is no object, a number of something else."""

import pytest

from llava_pl.building.objects import Names, Objects, read_names
from llava_pl.types import InputError

CATEGORIES = ("dog", "hot dog", "person", "bus", "sports ball", "orange", "knife", "cherry")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Two small dogs and a hot dog.", [("dog", "dogs", 2), ("hot dog", "hot dog", None)]),
        ("3 buses, twelve big red BUSES", [("bus", "buses", 3), ("bus", "BUSES", 12)]),
        (
            "A man with knives near children",
            [("person", "man", None), ("knife", "knives", None), ("person", "children", None)],
        ),
        ("The ball", [("sports ball", "ball", None)]),
        ("One of the dogs", [("dog", "dogs", None)]),
        ("two cats and the dogs", [("cat", "cats", 2), ("dog", "dogs", None)]),
        ("an orange dogma of doglike dogfish", []),
        ("bear in mind the bus stop, a bed of roses, a couple of train tracks", []),
        ("number 5 shows a dog", [("dog", "dog", None)]),
        ("two cherries", [("cherry", "cherries", 2)]),
        ("", []),
    ],
)
def test_mentions(text, found):
    objects = Objects(CATEGORIES, read_names())
    assert [(each.category, each.word, each.number) for each in objects.find(text)] == found


def test_what_stands_around_a_mention():
    (mention,) = Objects(CATEGORIES, Names()).find("No. Some dogs run; they are fast.")
    assert (mention.before, mention.after) == (" Some ", " run;")


@pytest.mark.parametrize(
    ("word", "is_general", "is_own", "is_plural"),
    [
        ("people", True, True, True),
        ("person", True, True, False),
        ("men", False, False, True),
        ("bus", False, True, False),
        ("buses", False, True, True),
    ],
)
def test_words(word, is_general, is_own, is_plural):
    (mention,) = Objects(CATEGORIES, read_names()).find(word)
    assert (mention.is_general, mention.is_own, mention.is_plural) == (is_general, is_own, is_plural)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("A batter waits.", {"person", "baseball bat", "sports ball"}),
        ("It stops at the bus stop, in orange.", {"bus", "orange"}),
        ("train", {"train", "car"}),
        ("Dogs.", {"dog"}),
        ("", set()),
    ],
)
def test_what_captions_tell_of(text, told):
    assert Objects(CATEGORIES, read_names()).told([text]) == told


def test_no_categories():
    assert list(Objects((), Names()).find("a dog")) == []


def test_every_line_of_ours_is_of_a_category():
    names = read_names()
    assert len(names.names) == 80
    assert {*names.told_by, *names.uncounted} <= names.names.keys()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- dog", "expected names, told_by, ignored, general and uncounted, found ''; put names below 'names:'"),
        ("dog: [puppy]", "expected names, told_by, ignored, general and uncounted, found 'dog'; put names below"),
        ("names: {dog: cat}", "names: expected CATEGORY: [NAME, ...], found {'dog': 'cat'}"),
        ("names: {dog: [3]}", "names: expected"),
        ("names: {3: [x]}", "names: expected"),
        ("names: {dog: ['']}", "names: expected"),
        ("told_by: {dog: }", "told_by: expected"),
        ("names: [dog]", "names: expected"),
        ("ignored: {a: b}", "ignored: expected a list of words, found {'a': 'b'}"),
        ("a: [", "invalid YAML"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_file_of_names(content, message, tmp_path):
    path = tmp_path / "n.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_names(path)
    assert str(caught.value).startswith(f"--objects: {path}: {message}")
