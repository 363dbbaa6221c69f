"""Guards the pool of a survey: processes that outlive their parent, a wait that never ends, work after a stop."""

import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import psutil
import pytest

from llava_pl.building.survey_pool import open_pool, until_stopped
from llava_pl.types import InputError

KILLED = """
import os, signal, sys
from multiprocessing import active_children
from pathlib import Path
from llava_pl.building.survey_pool import open_pool

with open_pool(2) as pool:
    for future in [pool.submit(abs, number) for number in range(4)]:
        future.result()
    Path(sys.argv[1]).write_text(" ".join(str(child.pid) for child in active_children()))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def count(path: Path) -> None:
    """Count in a file until it is stopped, a minute at most."""
    for number in until_stopped(range(6000)):
        path.write_text(str(number))
        time.sleep(0.01)


def interrupt(path: Path, num_processes: int) -> None:
    """Interrupt a pool that is at work."""
    with open_pool(num_processes) as pool:
        pool.submit(count, path)
        while not path.exists():
            time.sleep(0.01)
        raise KeyboardInterrupt


@pytest.mark.parametrize("num_processes", [1, pytest.param(2, marks=pytest.mark.app)])
def test_what_fails_in_the_block_ends_the_work(tmp_path, num_processes):
    with pytest.raises(KeyboardInterrupt):
        interrupt(tmp_path / "number", num_processes)
    assert int((tmp_path / "number").read_text()) < 3000
    assert list(until_stopped("ab")) == ["a", "b"]  # another pool is another one's


def test_an_error_of_a_file_is_told_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), open_pool(1) as pool:
        pool.submit((tmp_path / "none").read_text).result()


@pytest.mark.app  # two processes are started
def test_processes_end_with_the_one_that_started_them(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "processes")], check=False)
    names = [int(word) for word in (tmp_path / "processes").read_text().split()]
    _, alive = psutil.wait_procs([psutil.Process(name) for name in names if psutil.pid_exists(name)], timeout=60)
    for process in alive:
        process.kill()
    assert (len(names), alive) == (2, [])


def end_processes() -> None:
    """End a pool's processes as the system does."""
    with open_pool(2) as pool:
        pool.submit(abs, 1).result()
        for process in active_children():
            process.kill()
        for _ in range(100):
            pool.submit(time.sleep, 0.1).result()


@pytest.mark.app  # two processes are started
def test_a_process_that_the_system_ends():
    with pytest.raises(InputError, match="--workers: a process was ended by the system"):
        end_processes()
