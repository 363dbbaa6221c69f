"""Guards: a help page that is longer than a screen, shows no example, or makes the reader wait for torch."""

import json
import re
import subprocess
import sys

import pytest

from llava_pl.app.commands import APP_COMMANDS, CARRY_COMMANDS, COMMANDS, FIT_COMMANDS
from llava_pl.app.data.data_commands import MODULES
from llava_pl.evaluation.benchmarks import TASKS

BELOW = [f"data {name}" for name in ("view", "check", *MODULES)] + ["verify invariance"]
OF_SIGNATURES = ["data instruct", "eval"]
INSTANT = [line for line in ("", *COMMANDS, *BELOW) if line not in OF_SIGNATURES]
EVAL = [*OF_SIGNATURES, "eval diff", "eval judge", *(f"eval {name}" for name in TASKS)]

MAX_LINES, MAX_COLUMNS = 40, 100
LONGER = {"eval judge": 51, "data instruct": 60}
"""Options of a task, a teacher and its prices, which are read off their signatures."""

RUN_ALL = """
import contextlib, io, json, sys
from llava_pl.cli import main
pages = {}
for line in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            status = main([*line.split(), "--help"])
        except SystemExit as stop:
            status = stop.code
    pages[line] = status, out.getvalue()
heavy = [name for name in ("torch", "lightning", "transformers", "jsonargparse", "PIL") if name in sys.modules]
json.dump([pages, heavy], sys.stdout)
"""


def pages_of(lines):
    """Return the page of each command, and the heavy packages that were imported for them, in a fresh process."""
    words = [sys.executable, "-c", RUN_ALL, json.dumps(lines)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={"COLUMNS": "100", "PATH": ""})
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def instant():
    return pages_of(INSTANT)


@pytest.fixture(scope="module")
def pages(instant):
    return instant[0] | pages_of(EVAL)[0]


@pytest.mark.parametrize("line", [*INSTANT, *EVAL])
def test_a_page_fits_a_screen_and_has_an_example(pages, line):
    status, page = pages[line]
    lines = page.splitlines()
    assert status == 0
    assert lines[0].startswith(f"usage: llava-pl {line}".rstrip())
    assert len(lines) <= LONGER.get(line, MAX_LINES)
    assert max(map(len, lines)) <= MAX_COLUMNS
    assert re.search(rf"^  llava-pl {line}.*$" if line else r"^  llava-pl \w+ .*$", page, re.MULTILINE)


def test_pages_import_nothing_that_takes_seconds(instant):
    assert instant[1] == []


def test_every_command_has_a_place():
    assert set(COMMANDS) == {*FIT_COMMANDS, *CARRY_COMMANDS, *APP_COMMANDS}
