"""Guards the files of `llava-pl eval`; ``test_eval_commands.py`` reads what is in them."""

import pytest

from llava_pl.app.eval_outputs import add_outputs, check_outputs
from llava_pl.app.task_parser import TaskParser
from llava_pl.types import InputError


@pytest.mark.parametrize("kind", ["markdown", "html", "json"])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path, kind):
    parser = TaskParser()
    add_outputs(parser)
    check_outputs(parser.parse_args([]))
    check_outputs(parser.parse_args([f"--{kind}", str(tmp_path / "x")]))
    with pytest.raises(InputError, match=f"--{kind}: .* found no folder"):
        check_outputs(parser.parse_args([f"--{kind}", str(tmp_path / "none" / "x")]))
