"""Guards standard output: work that stops, or is said to be done, because nobody reads what is printed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llava_pl.standard_output import lasting_stdout

WORK = """
import sys, llava_pl.cli
from pathlib import Path
from rich.console import Console
def run(words):
    {line}
    Path({path!r}).write_text("done")
    print("and more")
    return 3
llava_pl.cli._run = run
sys.exit(llava_pl.cli.main([]))
"""


def start(code, **options):
    return subprocess.run([sys.executable, *code], stderr=subprocess.PIPE, text=True, check=False, **options)


@pytest.mark.parametrize("line", ["print('much', flush=True)", "Console().print('much')", "sys.stdout.write('much')"])
@pytest.mark.parametrize("flags", [[], ["-u"]])
def test_the_work_is_done_though_its_reader_is_gone(line, flags, tmp_path):
    """What `llava-pl ... | head -1` is when `head` has gone: a command does what it is for, with its own status."""
    reader, writer = os.pipe()
    os.close(reader)
    done = start([*flags, "-c", WORK.format(line=line, path=str(tmp_path / "x"))], stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr, (tmp_path / "x").read_text()) == (3, "", "done")


def test_a_help_page_whose_reader_is_gone():
    for words in (["--help"], ["runs", "--help"]):
        reader, writer = os.pipe()
        os.close(reader)
        done = start(["-m", "llava_pl", *words], stdout=writer)
        os.close(writer)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_is_one_line():
    with Path("/dev/full").open("w") as full:
        done = start(["-m", "llava_pl", "--help"], stdout=full)
    message = "llava-pl: error: standard output: No space left on device; make room, and start again\n"
    assert (done.returncode, done.stderr) == (2, message)


def test_no_standard_output_at_all():
    code = "import os, sys; os.close(1); os.execv(sys.executable, [sys.executable, '-m', 'llava_pl', '--help'])"
    assert (done := start(["-c", code])).returncode == 0, done.stderr


def test_letters_that_a_terminal_does_not_have():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    code = "from llava_pl.standard_output import lasting_stdout as l\nwith l(): print('h\u00e9')"
    assert start(["-c", code], stdout=subprocess.PIPE, env=environment).stdout == "h\\xe9\n"


def test_what_a_caller_prints_to_is_left_as_it_was(capsys):
    usual = sys.stdout
    with lasting_stdout():
        sys.stdout.write("a\n")
    assert sys.stdout is usual
    assert capsys.readouterr().out == "a\n"
