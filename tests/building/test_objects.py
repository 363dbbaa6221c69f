"""Guards names of objects in texts: an object that is missed, one that is no object, a number of something else."""

import pytest

from llava_pl.building.objects import Objects, read_names
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
        ("number 5 shows a dog", [("dog", "dog", None)]),
        ("two cherries", [("cherry", "cherries", 2)]),
        ("", []),
    ],
)
def test_mentions(text, found):
    objects = Objects(CATEGORIES, {**read_names(), "orange": None})
    assert [(each.category, each.word, each.number) for each in objects.find(text)] == found


@pytest.mark.parametrize(
    ("text", "is_denied"),
    [
        ("There is no dog here.", True),
        ("It isn't a dog.", True),
        ("Without any dog", True),
        ("No. A dog!", False),
        ("The dog is not brown.", False),
        ("Nothing but a dog", False),
    ],
)
def test_what_is_denied(text, is_denied):
    (mention,) = Objects(CATEGORIES, {}).find(text)
    assert mention.is_denied == is_denied


def test_no_categories():
    assert list(Objects((), {}).find("a dog")) == []


@pytest.mark.parametrize("content", ["- dog", "dog: cat", "dog: [3]", "3: [x]", "dog: ['']"])
def test_what_is_no_file_of_names(content, tmp_path):
    (tmp_path / "n.yaml").write_text(content)
    with pytest.raises(InputError, match=r"--objects: .*n\.yaml: expected CATEGORY: \[NAME, \.\.\.\], found"):
        read_names(tmp_path / "n.yaml")
