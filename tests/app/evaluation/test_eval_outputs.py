"""Guards the files of `llava-pl eval`; ``test_eval_commands.py`` reads what is in them."""

import pytest

from llava_pl.app.evaluation.eval_outputs import add_outputs, check_outputs
from llava_pl.app.task_parser import TaskParser
from llava_pl.types import InputError


def test_files_are_not_written_over_each_other(tmp_path):
    parser = TaskParser()
    add_outputs(parser)
    parser.add_argument("--submission")
    (tmp_path / "mine").touch()
    words = [f"--markdown={tmp_path / 'x'}", f"--submission={tmp_path / 'y'}"]
    check_outputs(parser.parse_args(words), further=["submission"], inputs=[str(tmp_path / "mine")])
    for wrong in ("x", "mine"):
        words[1] = f"--submission={tmp_path / 'none' / '..' / wrong}"
        (tmp_path / "none").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=r"--submission: .* expected a file of its own"):
            check_outputs(parser.parse_args(words), further=["submission"], inputs=[str(tmp_path / "mine")])


@pytest.mark.parametrize("kind", ["markdown", "html", "json"])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path, kind):
    parser = TaskParser()
    add_outputs(parser)
    check_outputs(parser.parse_args([]))
    check_outputs(parser.parse_args([f"--{kind}", str(tmp_path / "x")]))
    with pytest.raises(InputError, match=f"--{kind}: .* found no folder"):
        check_outputs(parser.parse_args([f"--{kind}", str(tmp_path / "none" / "x")]))
