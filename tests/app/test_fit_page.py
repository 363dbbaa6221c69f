"""Guards: a short page that names options which are not there, or hides the whole list of them."""

import re

import pytest

from llava_pl.app.commands import FIT_COMMANDS
from llava_pl.app.completion_command import lightning_parsers
from llava_pl.app.fit_page import find_help, fit_page
from llava_pl.cli import main


@pytest.fixture(scope="module")
def parsers():
    return lightning_parsers()


@pytest.mark.parametrize("command", FIT_COMMANDS)
def test_every_option_of_the_page_is_there(parsers, command):
    options = {name for action in parsers[command]._actions for name in action.option_strings} | {"--help"}
    named = set(re.findall(r"(?<![\w-])--[\w.]+\*?", fit_page(command)))
    assert len(named) > 10
    for name in named - {"--data.help", "--SETTING"}:
        if name.endswith("*"):
            assert any(each.startswith(name[:-1]) for each in options), name
        else:
            assert name in options, name


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ([], None),
        (["--config", "a.yaml"], None),
        (["--help"], "page"),
        (["--config", "a.yaml", "-h"], "page"),
        (["--help", "all"], "all"),
        (["--data.help", "LlavaDataModule"], None),
    ],
)
def test_which_help_is_asked_for(words, asked):
    assert find_help(words) == asked


def test_all_options_are_behind_help_all(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["validate", "--help", "all"])
    page = capsys.readouterr().out
    assert "--model.decoder.attention" in page
    assert len(page.splitlines()) > 300
