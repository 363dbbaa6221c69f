"""Guards against an old store taken for the present file, a half-written one taken for whole, and needless rebuilding.

A build may be killed, may meet a full disk, or may run while others ask for the same store.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava_pl.data import sources, store_cache
from llava_pl.data.store import RecordStore
from llava_pl.data.store_cache import advise, default_cache_dir, open_store
from llava_pl.types import InputError


def entry(name: object, text: str = "A dog.") -> dict[str, object]:
    return {"id": name, "conversations": [{"from": "gpt", "value": text}]}


def ids(store: RecordStore) -> list[str]:
    return [record.id for record in store]


def write(path: Path, *names: str) -> Path:
    path.write_text(json.dumps([entry(name) for name in names]))
    return path


@pytest.fixture
def source(tmp_path) -> Path:
    return write(tmp_path / "records.json", "a", "b")


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """Names of the expensive steps, in the order in which they ran."""
    found: list[str] = []

    def record(name, function):
        def called(*arguments, **settings):
            found.append(name)
            return function(*arguments, **settings)

        monkeypatch.setattr(store_cache, name, called)

    record("_hash_files", store_cache._hash_files)
    record("write_records", store_cache.write_records)
    return found


def visible(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))


def test_second_opening_reads_nothing(source, cache, calls, monkeypatch):
    first = open_store(source, cache)
    assert sorted(calls) == ["_hash_files", "write_records"]
    calls.clear()
    monkeypatch.setattr(sources, "read_entries", None)
    second = open_store(str(source), str(cache))
    assert calls == []
    assert ids(first) == ids(second) == ["a", "b"]
    assert first.path == second.path


def test_touched_file_of_equal_content_is_hashed_once_and_not_rebuilt(source, cache, calls):
    open_store(source, cache)
    calls.clear()
    os.utime(source, ns=(1, 1))
    open_store(source, cache)
    assert calls == ["_hash_files"]
    open_store(source, cache)
    assert calls == ["_hash_files"]


def test_other_content_of_the_same_size_is_built_anew(source, cache, calls):
    first = open_store(source, cache)
    size = source.stat().st_size
    write(source, "a", "c")
    os.utime(source, ns=(1, 1))
    assert source.stat().st_size == size
    calls.clear()
    second = open_store(source, cache)
    assert sorted(calls) == ["_hash_files", "_hash_files", "write_records"]
    assert ids(second) == ["a", "c"]
    assert ids(first) == ["a", "b"]  # who has the old one open goes on with it
    assert visible(cache) == [second.path.name]


def test_other_version_is_built_anew(source, cache, calls, monkeypatch):
    open_store(source, cache)
    calls.clear()
    monkeypatch.setattr(store_cache, "STORE_VERSION", 99)
    monkeypatch.setattr("llava_pl.data.store.STORE_VERSION", 99)
    assert ids(open_store(source, cache)) == ["a", "b"]
    assert "write_records" in calls
    calls.clear()
    open_store(source, cache)
    assert calls == []


def test_files_of_one_name_have_stores_of_their_own(tmp_path, cache):
    paths = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        paths.append(write(tmp_path / name / "records.json", name))
    assert [ids(open_store(path, cache)) for path in paths] == [["a"], ["b"]]
    assert [ids(open_store(path, cache)) for path in paths] == [["a"], ["b"]]


def test_every_file_of_a_folder_counts(tmp_path, cache):
    folder = tmp_path / "shards"
    folder.mkdir()
    for name in ("a", "b"):
        pq.write_table(pa.Table.from_pylist([entry(name)]), folder / f"{name}.parquet")
    assert ids(open_store(folder, cache)) == ["a", "b"]
    pq.write_table(pa.Table.from_pylist([entry("c")]), folder / "b.parquet")
    assert ids(open_store(folder, cache)) == ["a", "c"]
    (folder / "a.parquet").unlink()
    assert ids(open_store(folder, cache)) == ["c"]


def test_remains_of_a_killed_build_are_ignored_and_removed(source, cache):
    path = open_store(source, cache).path
    # As a kill leaves it: the temporary folder, complete but for the manifest, and no store.
    path.rename(path.with_name(f".{path.name}.building"))
    (path.with_name(f".{path.name}.building") / "manifest.json").unlink()
    assert ids(open_store(source, cache)) == ["a", "b"]
    assert visible(cache) == [path.name]


def test_process_killed_within_a_build_leaves_no_lock_and_no_store(source, cache):
    code = (
        "import os, sys; from llava_pl.data import sources, store_cache; "
        "sources.read_entries = lambda *_, **settings: (os.kill(os.getpid(), 9) for _ in (1,)); "
        "store_cache.open_store(*sys.argv[1:])"
    )
    result = subprocess.run([sys.executable, "-c", code, source, cache], cwd=Path(__file__).parents[2], check=False)
    assert result.returncode == -9
    assert [name.endswith(".building") for name in visible(cache)] == [True]
    store = open_store(source, cache)
    assert ids(store) == ["a", "b"]
    assert visible(cache) == [store.path.name]


@pytest.mark.parametrize("name", ["records.arrow", "manifest.json", "source_index.npy"])
def test_damaged_store_is_built_anew(source, cache, name):
    path = open_store(source, cache).path
    (path / name).write_bytes(b"")
    assert ids(open_store(source, cache)) == ["a", "b"]


def message(source: Path, cache: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_store(source, cache)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_full_disk(source, cache, monkeypatch):
    """The device that is always full stands in for the file of texts."""
    mkdir = Path.mkdir

    def mkdir_on_a_full_disk(path, *arguments, **settings):
        mkdir(path, *arguments, **settings)
        if path.name.endswith(".building"):
            (path / "records.arrow").symlink_to("/dev/full")

    monkeypatch.setattr(Path, "mkdir", mkdir_on_a_full_disk)
    assert message(source, cache) == (
        f"{cache}: cannot store the records of {source} (No space left on device); make room for about 0 MB, or set "
        "data.cache_dir or LLAVA_PL_CACHE to another folder"
    )
    assert visible(cache) == []
    monkeypatch.undo()
    assert ids(open_store(source, cache)) == ["a", "b"]


def test_disk_that_is_full_at_the_last_moment_keeps_the_old_store(source, cache, monkeypatch):
    path = open_store(source, cache).path

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    write(source, "a", "b", "c")
    monkeypatch.setattr(os, "fsync", fail)
    assert "(No space left on device)" in message(source, cache)
    assert visible(cache) == [path.name]
    monkeypatch.undo()
    write(source, "a", "b")
    assert ids(open_store(source, cache)) == ["a", "b"]


def test_cache_folder_cannot_be_made(source, tmp_path):
    assert message(source, source / "cache") == (
        f"{source / 'cache'}: cannot store the records of {source} (Not a directory); set data.cache_dir or "
        "LLAVA_PL_CACHE to a folder that you may write to"
    )


@pytest.mark.parametrize(
    ("number", "step"),
    [
        (errno.ENOSPC, "make room for about 5 MB, or set data.cache_dir or LLAVA_PL_CACHE to another folder"),
        (errno.EDQUOT, "make room for about 5 MB, or set data.cache_dir or LLAVA_PL_CACHE to another folder"),
        (errno.EACCES, "set data.cache_dir or LLAVA_PL_CACHE to a folder that you may write to"),
        (errno.EROFS, "set data.cache_dir or LLAVA_PL_CACHE to a folder that you may write to"),
    ],
)
def test_next_step_follows_from_what_the_system_says(number, step):
    assert advise(OSError(number, "x"), " for about 5 MB") == step


def test_source_that_may_not_be_read_is_no_fault_of_the_cache(source, cache, monkeypatch):
    def refuse(files):
        raise PermissionError(errno.EACCES, "Permission denied", str(source))

    monkeypatch.setattr(store_cache, "_hash_files", refuse)
    assert message(source, cache) == f"{source}: cannot be read (Permission denied); check the path"


@pytest.mark.parametrize("stem", ["x" * 250, "\u00e9" * 125, "a" + "\u00e9" * 124])
def test_name_as_long_as_file_systems_take(tmp_path, cache, stem):
    path = write(tmp_path / f"{stem}.json", "a", "b")
    assert ids(open_store(path, cache)) == ["a", "b"]
    (name,) = visible(cache)
    assert stem.startswith(name.rpartition("-")[0])


def test_broken_source_leaves_nothing(source, cache):
    source.write_text('[{"id" 1}]')
    assert message(source, cache) == f"{source}: invalid JSON at line 1, column 8: Expecting ':' delimiter"
    assert visible(cache) == []


def test_source_that_changes_while_it_is_read(source, cache, monkeypatch):
    def write_late(entries, *arguments, **settings):
        found = write_records(entries, *arguments, **settings)
        write(source, "a", "b", "c")
        return found

    write_records = store_cache.write_records
    monkeypatch.setattr(store_cache, "write_records", write_late)
    assert message(source, cache) == f"{source}: changed while it was read; start again when it is complete"
    assert visible(cache) == []


def test_source_that_can_be_read_only_once(tmp_path, cache):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        assert message(path, cache) == (
            f"{path}: expected a regular file, found a device, pipe or socket; copy its content into a file"
        )
    assert not cache.exists()


def test_missing_source(tmp_path, cache):
    path = tmp_path / "none.json"
    assert message(path, cache) == f"{path}: cannot be read (No such file or directory); check the path"
    assert not cache.exists()


def test_several_ask_at_once_and_one_builds(source, cache, calls):
    # Threads hold the lock apart as processes do: each opens the lock's file for itself.
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: open_store(source, cache), range(4)))
    assert [ids(store) for store in stores] == [["a", "b"]] * 4
    assert calls.count("write_records") == 1


def test_a_waiting_process_says_so(source, cache, capsys):
    path = open_store(source, cache).path
    shutil.rmtree(path)
    with ThreadPoolExecutor(1) as pool:
        with store_cache.locked(path):
            waiting = pool.submit(open_store, source, cache)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.2)
        assert ids(waiting.result(timeout=10)) == ["a", "b"]
    assert "waiting for another process" in capsys.readouterr().err


def test_default_cache_folder(monkeypatch):
    monkeypatch.setenv("LLAVA_PL_CACHE", "/data/cache")
    assert default_cache_dir() == Path("/data/cache")
    monkeypatch.setenv("LLAVA_PL_CACHE", "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_cache_dir() == Path("/home/someone/.cache/llava_pl")
    monkeypatch.delenv("LLAVA_PL_CACHE")
    assert default_cache_dir() == Path("/home/someone/.cache/llava_pl")


def test_cache_folder_of_the_environment_is_used(source, cache, monkeypatch):
    monkeypatch.setenv("LLAVA_PL_CACHE", str(cache))
    assert open_store(source).path.parent == cache
