"""Guards: a mistake in a config is answered with a line that does not say where it is and what would be right."""

import pytest

from llava_pl.parser_errors import explain

OPTIONS = ["data.init_args.batch_size", "model.stage", "trainer.logger", "trainer.max_steps"]
NO_STAGE = "Parser key \"model.stage\":\n  Expected a typing.Literal['align', 'finetune']. Got value: alignn"
NO_BATCHSIZE = "Option 'batchsize' is not accepted"
NO_CLASS = """Parser key "data":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'a.b.ConversationDataModule'>, <class 'NoneType'>]
  Errors:
    - Expected a dot import path string: Mine
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: Mine"""

# What follows the errors is the whole value; before it, each item that is wrong has a value of its own.
NO_SOURCES = """Parser key "records":
  Does not validate against any of the Union subtypes
  Errors:
    - Does not validate against any of the Union subtypes
      Errors:
        - Expected a <class 'str'>
        - Expected a <class 'float'>. Got value: abc
      Given value type: <class 'dict'>
      Given value: {{'path': 'x', 'repeats': 'abc'}}
    - Expected a <class 'NoneType'>
  Given value type: <class 'list'>
  Given value: {}"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda name, text: (tmp_path / name).write_text(text)


@pytest.mark.parametrize(
    ("message", "words", "expected"),
    [
        (NO_STAGE, ["--model.stage", "alignn"], "--model.stage: expected one of align, finetune, found alignn"),
        (NO_STAGE, ["--model.stage=alignn"], "--model.stage: expected one of align, finetune, found alignn"),
        (NO_STAGE, ["-c", "a.yaml"], "a.yaml: model.stage: expected one of align, finetune, found alignn"),
        # The value tells which of two places is meant.
        (
            NO_STAGE,
            ["-c", "a.yaml", "-c", "b.yaml"],
            "a.yaml: model.stage: expected one of align, finetune, found alignn",
        ),
        (NO_STAGE, [], "model.stage: expected one of align, finetune, found alignn"),
        (
            NO_BATCHSIZE,
            ["--config=b.yaml"],
            "b.yaml: data.init_args.batchsize: no such option; did you mean data.init_args.batch_size?",
        ),
        (
            NO_BATCHSIZE,
            ["--data.batchsize", "3"],
            "--data.batchsize: no such option; did you mean data.init_args.batch_size?",
        ),
        (
            "unrecognized arguments: --trainer.zzz 3",
            ["--trainer.zzz", "3"],
            "--trainer.zzz: no such option; trainer has logger, max_steps",
        ),
        ("Group 'a' does not accept option 'zzz.zzz'", [], "zzz.zzz: no such option; --help lists all options"),
        (
            "Subcommand 'fit' does not accept option 'model.stag'",
            [],
            "model.stag: no such option; did you mean model.stage?",
        ),
        (
            "the following arguments are required: fit.data",
            [],
            "data: required, found nothing; give it in a --config file or as --data",
        ),
        (
            "Parser key \"model.decoder.path\":\n  Expected a <class 'str'>. Got value: None",
            [],
            "model.decoder.path: required, found nothing; give it in a --config file or as --model.decoder.path",
        ),
        (
            "Parser key \"trainer.max_steps\":\n  Expected a <class 'int'>. Got value: x",
            ["--trainer.max_steps", "x"],
            "--trainer.max_steps: expected int, found x",
        ),
        (
            NO_CLASS.replace("Given value: Mine", "Given value: NestedArg(key='class_path', val='my.Mine')"),
            [],
            "data: expected a class (LlavaDataModule, ScienceQADataModule), found my.Mine",
        ),
        (NO_CLASS, ["--data", "Mine"], "--data: expected a class (LlavaDataModule, ScienceQADataModule), found Mine"),
        (
            "Unexpected config:\n",
            ["-c", "a.yaml", "-c", "empty.yaml"],
            "empty.yaml: expected a YAML file with keys such as trainer: and model:; Unexpected config:",
        ),
        (
            'Parser key "model": Unable to load config \'null\'\n- Parser key "model": Unable to load config "null"',
            ["fit", "--model", "null"],
            "--model: expected a group of options or an existing YAML file, found null",
        ),
        ("something\n  new", [], "something new"),
    ],
)
def test_message(message, words, expected, write):
    write("a.yaml", "model: {stage: alignn}")
    write("b.yaml", "model: {stage: align}\ndata: {init_args: {batchsize: 3}}")
    write("empty.yaml", "")
    assert explain(message, ["fit", *words], OPTIONS) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["a", {"path": "b", "repeats": "abc"}], "item 1: repeats: expected a number such as 2.5, found 'abc'"),
        ([{"path": "b", "repeats": "nan"}], "item 0: repeats: expected a number such as 2.5, found 'nan'"),
        ([{"path": "b", "repeats": "2"}, {"path": 3}], "item 1: path: expected text, found 3"),
        ([{"name": "b"}], "item 0: expected a file, or its path, name and repeats, found {'name': 'b'}"),
        (
            [{"path": "b", "x": 1}],
            "item 0: expected a file, or its path, name and repeats, found {'path': 'b', 'x': 1}",
        ),
        ([3], "item 0: expected a file, or its path, name and repeats, found 3"),
        (7, "expected a file, or a list of files or of their path, name and repeats, found 7"),
        ("[PosixPath(", "expected a file, or a list of files or of their path, name and repeats, found [PosixPath("),
    ],
)
def test_files_to_train_on(value, expected, write):
    write("a.yaml", "data: {init_args: {records: []}}")
    found = explain(NO_SOURCES.format(value), ["fit", "-c", "a.yaml"], OPTIONS)
    assert found == f"a.yaml: data.init_args.records: {expected}"


def test_missing_file_names_those_that_are_there(write, tmp_path):
    write("b.yaml", "")
    write("a.yml", "")
    write("notes.txt", "")
    message = f"Parser key \"config\":\n  File does not exist: '{tmp_path / 'c.yaml'}'"
    assert explain(message, [], []) == "c.yaml: no such file; . has a.yml, b.yaml"
    message = f"Parser key \"config\":\n  File does not exist: '{tmp_path / 'no' / 'c.yaml'}'"
    assert explain(message, [], []) == "no/c.yaml: no such file, and no folder no; check the path"
