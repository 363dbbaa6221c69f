"""Guards: the front door gets slow (torch imported for a help page), or answers a mistake with a traceback."""

import errno
import subprocess
import sys

import pytest

import llava_pl.cli
from llava_pl import __version__
from llava_pl.cli import HELP, main
from llava_pl.types import InputError, RecordError


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help(word, capsys):
    assert main([word]) == 0
    assert capsys.readouterr().out == HELP


def test_help_fits_a_screen():
    assert all(len(line) <= 100 for line in HELP.splitlines())


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"llava_pl {__version__}\n"


def test_no_words_show_the_help_and_fail(capsys):
    assert main([]) == 2
    assert capsys.readouterr().out == HELP


def test_unknown_command_names_the_choices(capsys):
    assert main(["fti"]) == 2
    assert capsys.readouterr().err == (
        "llava-pl: error: unknown command 'fti'; expected one of fit, validate, test, predict, import, "
        "export, certify, chat, web, serve, doctor, eval, plan, runs, data, verify, demo, completion\n"
    )


@pytest.mark.parametrize(
    ("line", "start"),
    [
        ("--help", "usage: llava-pl"),
        ("--version", "llava_pl"),
        ("data", "usage: llava-pl data"),
        ("data --help", "usage: llava-pl data"),
        ("data view --help", "usage: llava-pl data"),
        ("data check -h", "usage: llava-pl data"),
        ("data scienceqa --help", "usage: llava-pl data scienceqa"),
        ("runs --help", "usage: llava-pl runs"),
        ("runs", "no runs in runs"),
        ("verify --help", "usage: llava-pl verify invariance"),
        ("verify invariance --help", "usage: llava-pl verify invariance"),
    ],
)
def test_help_and_version_import_no_torch(line, start):
    code = (
        "import sys\nfrom llava_pl.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit as exit:\n"
        "    assert exit.code == 0\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'lightning', 'transformers', 'jsonargparse', 'PIL')))"
    )
    words = [sys.executable, "-c", code, *line.split()]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(start)


def test_imports_of_a_run_collect_no_garbage():
    code = (
        "import gc\nfrom llava_pl.cli import main\nphases = []\n"
        "gc.callbacks.append(lambda phase, _: phases.append(phase))\n"
        "try:\n    main(['fit', '--no_such_option', '1'])\nexcept SystemExit:\n    pass\n"
        "print(gc.isenabled(), gc.get_freeze_count() > 100_000, phases.count('start'))"
    )
    enabled, frozen, num_collections = subprocess.check_output(
        [sys.executable, "-c", code], text=True, stderr=subprocess.DEVNULL
    ).split()
    assert (enabled, frozen) == ("True", "True")
    assert int(num_collections) < 100  # those of reading the options, 20; imports would make 1,100


def test_python_dash_m():
    output = subprocess.check_output([sys.executable, "-m", "llava_pl", "--version"], text=True)
    assert output == f"llava_pl {__version__}\n"


def test_input_error_is_one_line_without_traceback(monkeypatch, capsys):
    def fail(words):
        raise InputError("a.json: record 3: field 'id': expected a string")

    monkeypatch.setattr(llava_pl.cli, "_run", fail)
    assert main(["fit"]) == 2
    assert capsys.readouterr().err == "llava-pl: error: a.json: record 3: field 'id': expected a string\n"


def test_input_error_of_a_data_worker_keeps_its_last_line(monkeypatch, capsys):
    def fail(words):
        raise InputError(
            "Caught InputError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
            "  File \"x.py\", line 1\nllava_pl.types.InputError: record '7': no such picture\n"
        )

    monkeypatch.setattr(llava_pl.cli, "_run", fail)
    assert main(["fit"]) == 2
    assert capsys.readouterr().err == "llava-pl: error: record '7': no such picture\n"


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("fit", "; `llava-pl data check` lists all such records, and writes them down with --quarantine FILE"),
        ("validate", ""),
        ("data", ""),
    ],
)
def test_record_error_of_a_data_worker_keeps_its_last_line(monkeypatch, capsys, command, hint):
    def fail(words):
        raise RecordError(
            "Caught RecordError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
            "  File \"x.py\", line 1\nllava_pl.types.RecordError: record '7': no such picture\n"
        )

    monkeypatch.setattr(llava_pl.cli, "_run", fail)
    assert main([command]) == 2
    assert capsys.readouterr().err == f"llava-pl: error: record '7': no such picture{hint}\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENAMETOOLONG, "File name too long", "nnn"), "nnn: File name too long"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/proc/x"), "/proc/x: No such file or directory"),
    ],
)
def test_a_path_that_cannot_be_used_is_one_line(monkeypatch, capsys, error, said):
    def fail(words):
        raise error

    monkeypatch.setattr(llava_pl.cli, "_run", fail)
    assert main(["fit"]) == 2
    assert capsys.readouterr().err == f"llava-pl: error: {said}; check the path, or choose another\n"


def test_a_full_disk_is_one_line(monkeypatch, capsys):
    def fail(words):
        raise OSError(errno.ENOSPC, "No space left on device")  # as a write says it, without a file

    monkeypatch.setattr(llava_pl.cli, "_run", fail)
    assert main(["fit"]) == 2
    assert capsys.readouterr().err == (
        "llava-pl: error: the folder of the run: No space left on device; make room, and start again\n"
    )


def test_an_error_of_the_system_that_names_no_file_keeps_its_traceback(monkeypatch):
    def fail(words):
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(llava_pl.cli, "_run", fail)
    with pytest.raises(OSError, match="Bad file descriptor"):
        main(["fit"])


def test_interrupt(monkeypatch, capsys):
    def stop(words):
        raise KeyboardInterrupt

    monkeypatch.setattr(llava_pl.cli, "_run", stop)
    assert main(["fit"]) == 130
    assert capsys.readouterr().err == "llava-pl: interrupted\n"


def test_other_errors_keep_their_traceback(monkeypatch):
    def fail(words):
        raise RuntimeError("a defect of ours")

    monkeypatch.setattr(llava_pl.cli, "_run", fail)
    with pytest.raises(RuntimeError, match="a defect of ours"):
        main(["fit"])
