"""Guards what becomes of a survey: a caption under another picture, a repeated picture, counts that do not add up."""

from llava_pl.building.alignment import choose, make_records
from llava_pl.building.balance import Balance
from llava_pl.building.survey import SCHEMA
from llava_pl.data.records import parse_record


def write_parts(folder, parts):
    """Write parts of rows: image, reason, hash, phrases."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = []
    for number, rows in enumerate(parts):
        paths.append(folder / f"{number}.parquet")
        columns = {name: [] for name in SCHEMA.names}
        for image, reason, digest, phrases in rows:
            row = (
                "x",
                image,
                f"text of {image}",
                "file",
                0,
                -1,
                "7" * (image == "g.png"),
                reason,
                reason,
                digest * 16,
                phrases,
            )
            for name, value in zip(SCHEMA.names, row, strict=True):
                columns[name].append(value)
        pq.write_table(pa.table(columns, schema=SCHEMA), paths[-1])
    return paths


PARTS = [
    [("a.png", "", b"a", ["cat", "dog"]), ("b.png", "picture_broken", b"", ["dog"]), ("c.png", "", b"c", ["dog"])],
    [("d.png", "", b"a", ["dog", "mouse"]), ("e.png", "", b"e", []), ("f.png", "caption_empty", b"", [])],
    [("g.png", "", b"g", ["dog"])],
]


def test_sound_captions_and_the_first_of_equal_pictures(tmp_path):
    parts = write_parts(tmp_path, PARTS)
    choice = choose(parts, None)
    assert choice.is_kept.tolist() == [True, False, True, False, True, False, True]
    assert choice.left_out == {"picture_broken": 1, "caption_empty": 1, "picture_repeated": 1}
    assert choice.repeats.tolist() == [[3, 0]]
    assert dict(zip(choice.phrases, choice.before.tolist(), strict=True)) == {"cat": 1, "dog": 3}
    assert choice.after.tolist() == choice.before.tolist()


def test_a_balanced_draw(tmp_path):
    parts = write_parts(tmp_path, PARTS)
    choice = choose(parts, Balance(min_count=3, max_captions=2))
    assert int(choice.is_kept.sum()) == 2
    assert set(choice.is_kept.nonzero()[0].tolist()) < {0, 2, 6}
    assert {name: number for name, number in choice.left_out.items() if number} == {
        "picture_broken": 1, "caption_empty": 1, "picture_repeated": 1, "phrase_none": 1, "not_drawn": 1,
    }  # fmt: skip
    # Of a, c and g, which have the dog, two are drawn; a is not kept for its cat, which is rare.
    rare = choose(parts, Balance(min_count=4))
    assert (rare.left_out["phrases_rare"], int(rare.is_kept.sum())) == (3, 0)
    assert choice.after[choice.phrases.index("dog")] == 2


def test_nothing_is_left(tmp_path):
    parts = write_parts(tmp_path, [[("b.png", "picture_broken", b"", ["dog"])]])
    assert not choose(parts, Balance()).is_kept.any()


def test_records(tmp_path):
    parts = write_parts(tmp_path, PARTS)
    made = list(make_records(parts, choose(parts, None).is_kept, ["What is it?"], seed=0))
    assert [record["id"] for record, _ in made] == ["a", "c", "e", "7"]
    for record, caption in made:
        first, second = parse_record(record, where="x").turns
        assert record["image"] == caption.image
        assert first.text in ("<image>\nWhat is it?", "What is it?\n<image>")
        assert second.text == f"text of {caption.image}"
