"""Guards against an entry that is lost, doubled or changed on its way from a file, and against a fault without place.

Texts are read in pieces here as small as a byte: a border may fall into an escape, a character or a line end.
"""

import json
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llava_pl.data.json_files import read_json
from llava_pl.data.records import read_records
from llava_pl.data.sources import read_entries, source_files
from llava_pl.types import InputError

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]
ENTRIES = [
    {"id": 7, "image": "a.png", "conversations": TURNS},
    {"id": "caf\u00e9 \U0001f600", "image": ["a.png", "b.png"], "conversations": []},
    {"id": "c", "conversations": [{"from": "human", "value": 'tab\t"\\\u2028\u0085\x00'}]},
]
CHUNK_SIZES = (1, 2, 3, 7, 2**20)


def message(path: Path, **settings: int) -> str:
    with pytest.raises(InputError) as caught:
        list(read_entries(path, **settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def json_message(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_json(path)
    return str(caught.value)


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@pytest.mark.parametrize("settings", [{}, {"ensure_ascii": False}, {"indent": 2}, {"separators": (",", ":")}])
def test_json_list(tmp_path, chunk_size, settings):
    path = tmp_path / "records.json"
    path.write_text(json.dumps(ENTRIES, **settings), encoding="utf-8")
    assert list(read_entries(path, chunk_size=chunk_size)) == ENTRIES


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@pytest.mark.parametrize("end", ["", "\n", "\n\n  \n"])
def test_json_lines(tmp_path, chunk_size, end):
    path = tmp_path / "records.jsonl"
    text = "\r\n".join(json.dumps(entry, ensure_ascii=False) for entry in ENTRIES) + end
    path.write_bytes(text.encode())
    assert list(read_entries(str(path), chunk_size=chunk_size)) == ENTRIES


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@pytest.mark.parametrize("name", ["records.json", "records.jsonl"])
def test_byte_order_mark_is_passed_over(tmp_path, chunk_size, name):
    path = tmp_path / name
    text = json.dumps(ENTRIES) if name == "records.json" else "\n".join(map(json.dumps, ENTRIES))
    path.write_text(text, encoding="utf-8-sig")
    assert list(read_entries(path, chunk_size=chunk_size)) == ENTRIES


@pytest.mark.parametrize(("name", "text"), [("a.json", "[]"), ("a.json", " [ ]\n"), ("a.jsonl", ""), ("a.jsonl", "\n")])
def test_no_entries(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert list(read_entries(tmp_path / name)) == []


def test_record_of_five_megabytes(tmp_path):
    entries = [
        ENTRIES[0],
        {"id": "long", "conversations": [{"from": "gpt", "value": "\u00e9\n" * 500_000}]},
        ENTRIES[2],
    ]
    path = tmp_path / "records.json"
    path.write_text(json.dumps(entries))
    assert path.stat().st_size > 4_000_000
    assert list(read_entries(path, chunk_size=4096)) == entries


@pytest.mark.parametrize("name", ["records.json", "records.jsonl"])
def test_file_is_never_held_whole(tmp_path, name):
    path = tmp_path / name
    lines = [
        json.dumps({"id": index, "conversations": [{"from": "gpt", "value": "a" * 1000}]}) for index in range(4000)
    ]
    path.write_text("[" + ",\n".join(lines) + "]" if name == "records.json" else "\n".join(lines))
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_entries(path, chunk_size=2**14)) == 4000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # 111 kB were seen, of 4.2 MB: the window, a chunk, and what the decoder keeps.
    assert peak < path.stat().st_size / 10


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@pytest.mark.parametrize(
    "text",
    [
        '[\n  {"id" 1}\n]',
        '[{"id": 1}',
        '[{"id": 1}\n {"id": 2}]',
        '[{"id": 1},',
        "[1, nul]",
        "[1, 1.5e]",
        '["a\nb"]',
        '["a\\x"]',
        '["\\u12g4"]',
        '["open',
        "[1]\n\n x",
        "[",
        "",
        "  \n",
        '{"id": 1}\n{"id": 2}\n',
        "\ufeff[1 2]",
        "\ufeff\ufeff[]",
        "\ufeff",
        "[1,\r\n2,\r\n 3 4]",
        '["\x00"]',
    ],
)
def test_invalid_json_says_what_the_whole_file_would(tmp_path, chunk_size, text):
    path = tmp_path / "records.json"
    path.write_bytes(text.encode())
    assert message(path, chunk_size=chunk_size) == json_message(path)


def outcome(reader: Callable[[Path], object], path: Path) -> object:
    try:
        return reader(path)
    except InputError as error:
        return str(error)


def read_whole(path: Path, chunk_size: int) -> list[object]:
    return list(read_entries(path, chunk_size=chunk_size))


@settings(deadline=None)
@given(st.data())
def test_any_changed_character_is_seen_as_in_the_whole_file(tmp_path_factory, data):
    text = json.dumps(ENTRIES, indent=1)
    place = data.draw(st.integers(0, len(text) - 1))
    text = text[:place] + data.draw(st.sampled_from([*'[]{},:" \n\\0e-tu', ""])) + text[place + 1 :]
    path = tmp_path_factory.getbasetemp() / "changed.json"
    path.write_text(text)
    chunk_size = data.draw(st.integers(1, 40))
    expected, found = (outcome(reader, path) for reader in (read_json, partial(read_whole, chunk_size=chunk_size)))
    assume("trailing comma" not in str(expected))  # Python 3.13 has a word of its own for that
    assert found == expected


@pytest.mark.parametrize("text", ["[" * 100_000, '[{"id": ' + "1" * 5000 + "}]"], ids=["nested", "long_number"])
def test_json_that_the_parser_gives_up_on(tmp_path, text):
    path = tmp_path / "records.json"
    path.write_text(text)
    assert message(path).startswith(f"{path}: invalid JSON: ")
    lines = tmp_path / "records.jsonl"
    lines.write_text("{}\n" + text)
    assert message(lines).startswith(f"{lines}: invalid JSON at line 2: ")


def test_invalid_json_line(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"id": 1}\n\n{"id" 2}\n')
    for chunk_size in CHUNK_SIZES:
        found = message(path, chunk_size=chunk_size)
        assert found == f"{path}: invalid JSON at line 3, column 7: Expecting ':' delimiter"


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@pytest.mark.parametrize("content", [
        b'[{"id": "caf\xe9"}]', b'["\xc3\xa9", "\xc3', b'["\xf0\x9f\x98"]', b'\xef\xbb\xbf["\xe9"]', b'\xef\xbb[]',
    ],
)  # fmt: skip
def test_text_is_not_utf8(tmp_path, chunk_size, content):
    path = tmp_path / "records.json"
    path.write_bytes(content)
    assert message(path, chunk_size=chunk_size) == json_message(path)


def test_list_is_expected(tmp_path):
    path = tmp_path / "records.json"
    path.write_text('{"id": "a"}')
    with pytest.raises(InputError) as caught:
        read_records(path)
    assert message(path) == str(caught.value) == f"{path}: expected a JSON list of records, found dict {{'id': 'a'}}"


TABLE = pa.table(
    {
        "id": pa.array([1, 2, None]),
        "image": ["a.png", None, "c.png"],
        "conversations": [TURNS, TURNS[1:], []],
        "width": [1.0, 2.0, 3.0],
    }
)
ROWS = [
    {"id": 1, "image": "a.png", "conversations": TURNS},
    {"id": 2, "image": None, "conversations": TURNS[1:]},
    {"id": None, "image": "c.png", "conversations": []},
]


def test_parquet_file_and_folder(tmp_path):
    pq.write_table(TABLE, tmp_path / "b.parquet", row_group_size=2)
    pq.write_table(TABLE.slice(1, 1).drop(["image"]), tmp_path / "a.parquet")
    assert list(read_entries(tmp_path / "b.parquet")) == ROWS
    assert list(read_entries(tmp_path)) == [{"id": 2, "conversations": TURNS[1:]}, *ROWS]


def save_to_disk(folder: Path, *shards: pa.Table) -> Path:
    """Write what `datasets` 5.2 writes: shards as Arrow streams, and a state that names them in order."""
    folder.mkdir()
    names = [f"data-{number:05d}-of-{len(shards):05d}.arrow" for number in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        with pa.ipc.new_stream(folder / name, shard.schema) as writer:
            writer.write_table(shard, max_chunksize=2)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def test_folder_of_datasets(tmp_path):
    folder = save_to_disk(tmp_path / "train", TABLE, TABLE.slice(0, 1))
    names = ["state.json", "data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    assert source_files(folder) == tuple(folder / name for name in names)
    assert list(read_entries(folder)) == [*ROWS, ROWS[0]]


def test_folder_of_datasets_with_turns_as_an_object_of_lists(tmp_path):
    turns = {"from": ["human", "gpt"], "value": ["<image>\nWhat?", "A dog."]}
    folder = save_to_disk(tmp_path / "train", pa.table({"id": ["a"], "conversations": [turns]}))
    assert list(read_entries(folder)) == [{"id": "a", "conversations": TURNS}]


def test_all_columns_or_others(tmp_path):
    pq.write_table(TABLE, tmp_path / "a.PARQUET")
    folder = save_to_disk(tmp_path / "train", TABLE)
    for source in (tmp_path / "a.PARQUET", folder):
        assert list(read_entries(source, fields=None)) == TABLE.to_pylist()
        assert list(read_entries(source, fields=("width", "none"))) == [{"width": n} for n in (1.0, 2.0, 3.0)]


def test_turns_of_other_forms_as_an_object_of_lists(tmp_path):
    turns = {"role": ["user", "assistant"], "content": ["What?", "A dog."], "weight": [1, 0], "name": None}
    folder = save_to_disk(tmp_path / "train", pa.table({"messages": [turns]}))
    (entry,) = read_entries(folder, fields=None)
    assert entry["messages"][1] == {"role": "assistant", "content": "A dog.", "weight": 0}


def test_values_that_python_cannot_hold(tmp_path):
    column = pa.array([10**13], pa.timestamp("s"))  # far beyond the year 9999
    pq.write_table(pa.table({"id": ["a"], "date": column}), tmp_path / "a.parquet")
    assert list(read_entries(tmp_path / "a.parquet")) == [{"id": "a"}]
    with pytest.raises(InputError, match=r"a\.parquet: .*out of range"):
        list(read_entries(tmp_path / "a.parquet", fields=None))


def test_folder_that_cannot_be_read(tmp_path):
    folder = save_to_disk(tmp_path / "train", TABLE)
    shard = folder / "data-00000-of-00001.arrow"
    shard.write_bytes(shard.read_bytes()[:300])
    found = message(folder)
    assert found.startswith(f"{shard}: expected an Arrow stream, as save_to_disk writes it, found something else or")
    shard.unlink()
    assert message(folder) == f"{shard}: named in {folder / 'state.json'} but not there; copy the whole folder"
    (folder / "state.json").write_text('{"_data_files": [{"filename": "x"}], "_indices_data_files": [{}]}')
    assert message(folder) == (
        f"{folder / 'state.json'}: the data set is a selection of its rows; save it after flatten_indices()"
    )
    (folder / "state.json").write_text('{"_split": "train"}')
    assert message(folder) == (
        f"{folder / 'state.json'}: expected '_data_files', a list of objects with 'filename', as save_to_disk writes "
        "it; found the fields ['_split']"
    )


def test_folder_of_splits(tmp_path):
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert message(tmp_path) == (
        f"{tmp_path}: expected one data set, found a folder of the splits ['train', 'test']; name one: {tmp_path}/SPLIT"
    )


def test_neither_file_nor_known_folder(tmp_path):
    assert message(tmp_path) == (
        f"{tmp_path}: expected a folder written by datasets' save_to_disk or one with parquet files, found neither; "
        "check the path"
    )
    path = tmp_path / "none.json"
    assert message(path) == f"{path}: cannot be read (No such file or directory); check the path"


def test_broken_parquet_file(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1" + b"0" * 50)
    assert message(path).startswith(f"{path}: expected a parquet file, found something else or a broken one (")


def test_progress_ends_at_the_size_of_the_source(tmp_path):
    path = tmp_path / "records.json"
    path.write_text(json.dumps(ENTRIES))
    pq.write_table(TABLE, tmp_path / "a.parquet")
    folder = save_to_disk(tmp_path / "train", TABLE, TABLE)
    sizes: list[float] = []
    for source in (path, tmp_path / "a.parquet"):
        sizes.clear()
        list(read_entries(source, chunk_size=10, advance=sizes.append))
        assert sum(sizes) == pytest.approx(source.stat().st_size)
    sizes.clear()
    list(read_entries(folder, advance=sizes.append))
    shards = sum(file.stat().st_size for file in source_files(folder)[1:])
    assert sum(sizes) == pytest.approx(shards, abs=16)  # the mark at the end of a stream is not read by all versions
