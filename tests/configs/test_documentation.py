"""Guards README.md, docs/ and configs/README.md: a command that no parser takes, code that does not run.

Every command is given to the program itself, up to where its words are understood. Blocks that run whole have tests of
their own: the README's Python in test_public_surface.py, docs/carrying.md, docs/training.md, docs/tasks.md and
docs/tutorial.md in tests of these names. What cannot be parsed or run is marked in the page, with the reason.
"""

import argparse
import re
import shlex
from pathlib import Path

import pytest
import yaml

from llava_pl.app.task_parser import TaskParser
from llava_pl.cli import main
from llava_pl.data.templates import TEMPLATES
from llava_pl.lightning_cli import LlavaCLI, run_lightning
from llava_pl.run_config import check_settings

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8")
    for path in (
        *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "configs/README.md")),
        *sorted((REPOSITORY / "docs").glob("*.md")),
    )
}
LANGUAGES = {"bash", "json", "python", "text", "yaml"}
BLOCK = re.compile(
    r"(?:<!-- not (?:run|parsed): (?P<reason>[^>]+) -->\n\n)?^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
RUN_ELSEWHERE = (
    "README.md", "docs/carrying.md", "docs/tasks.md", "docs/tutorial.md", "docs/connectors.md", "docs/serving.md"
)  # fmt: skip
"""Pages whose Python has a test of its own: see above, tests/integration/test_connectors.py and test_serve.py."""

FIT = ("fit", "validate", "test", "predict")


def blocks(language):
    """Return the blocks of a language that are not marked, with the page of each."""
    return [
        (name, match["code"])
        for name, text in PAGES.items()
        for match in BLOCK.finditer(text)
        if match["language"] == language and match["reason"] is None
    ]


def commands():
    """Return every command of every page, without the values of its environment, and what is piped into it."""
    found = []
    for name, code in blocks("bash"):
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line.rpartition(" | ")[2], comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                found.append((name, words))
    return found


COMMANDS = commands()


@pytest.mark.parametrize("name", PAGES)
def test_every_block_says_its_language(name):
    text = PAGES[name]
    found = [match["language"] for match in BLOCK.finditer(text)]
    assert len(found) * 2 == len(re.findall(r"^```", text, re.MULTILINE))
    assert set(found) <= LANGUAGES
    assert all(match["reason"].strip() for match in BLOCK.finditer(text) if match["reason"] is not None)


class Parsed(Exception):  # noqa: N818  no error
    """The words are understood."""


@pytest.fixture(scope="module")
def fit_parser():
    """The program's own parser, which takes most of a second to make."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlavaCLI, "before_instantiate_classes", lambda cli: None)
        patch.setattr(LlavaCLI, "instantiate_classes", lambda cli: found.append(cli))
        patch.setattr(LlavaCLI, "_run_subcommand", lambda cli, command: None)
        run_lightning(["fit", "--config", str(REPOSITORY / "configs/experiment/align_7b.yaml")])
    return found[0].parser


@pytest.fixture(scope="module")
def place(tmp_path_factory, fit_parser):
    """A folder like a checkout, with the files that the pages speak of; commands end once they are parsed."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("configs", "benchmarks", "docs", "requirements.lock"):
        (folder / name).symlink_to(REPOSITORY / name)
    mine = yaml.safe_load((REPOSITORY / "configs/experiment/align_7b.yaml").read_text())
    (folder / "mine.yaml").write_text(yaml.safe_dump(mine))
    for name in ("block.yaml", "llava.yaml"):
        (folder / name).write_text("trainer: {max_epochs: 1}")
    (folder / "taught").mkdir()
    sources = [{"path": "taught/detailed.json", "repeats": 1.0}]
    (folder / "taught/mixture.yaml").write_text(yaml.safe_dump({"data": {"records": sources}}))
    for page, module in (("docs/tasks.md", "captions"), ("docs/connectors.md", "my_connectors")):
        (code,) = [code for name, code in blocks("python") if name == page]
        (folder / f"{module}.py").write_text(code)

    def parse_fit(words, *_):
        if "--print_config" not in words:
            config = fit_parser.parse_args(list(words))
            check_settings(config[config.subcommand])
        raise Parsed

    def stop(kind):
        parse = kind.parse_args

        def parse_args(self, *args, **kwargs):
            parse(self, *args, **kwargs)
            raise Parsed

        return parse_args

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setattr("llava_pl.app.load_data.run_lightning", parse_fit)  # first: it keeps what it is imported with
        patch.setattr("llava_pl.lightning_cli.run_lightning", parse_fit)
        for kind in (argparse.ArgumentParser, TaskParser):
            patch.setattr(kind, "parse_args", stop(kind))
        yield folder


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[f"{name} {' '.join(w)[:60]}" for name, w in COMMANDS])
def test_command_is_understood(page, words, place):
    program, *rest = words
    if program in ("torchrun", "sbatch", "bash"):
        rest = _unwrap(program, rest)
        program = "llava-pl"
    if program == "llava-pl":
        with pytest.raises(Parsed):
            main(rest)
    elif program == "make":
        targets = re.findall(r"^([\w -]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        assert rest[0] in " ".join(targets).split()
    elif program == "python" and rest[0] != "-m":
        assert (REPOSITORY / rest[0]).is_file()
    else:  # of other projects
        assert (program, rest[0]) in (("pip", "install"), ("python", "-m"), ("hf", "download"))
        assert "requirements.lock" not in rest or (REPOSITORY / "requirements.lock").is_file()


def _unwrap(program, words):
    """Return the words that a launcher of several machines hands on to llava-pl."""
    if program == "torchrun":
        return words[words.index("llava-pl") + 1 :]
    script = next(index for index, word in enumerate(words) if word.startswith("configs/cluster/"))
    assert (REPOSITORY / words[script]).is_file()
    return ["fit", *words[script + 1 :]]


def test_enough_is_tested():
    used = [words for _, words in COMMANDS if words[0] == "llava-pl"]
    assert len(used) > 60
    named = {words[1] for words in used}
    assert {"fit", "validate", "test", "plan", "data", "verify", "eval", "import", "export", "certify", "chat"} <= named
    below = {"view", "check", "captions", "instruct", "convert", "split", "stats", "scienceqa", "ledger"}
    assert {words[2] for words in used if words[1] == "data"} == below


@pytest.mark.parametrize(
    ("name", "code"), [(name, code) for name, code in blocks("python") if name not in RUN_ELSEWHERE]
)
def test_python_runs(name, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = dict(TEMPLATES)
    try:
        exec(compile(code, name, "exec"), {})
    finally:
        TEMPLATES.clear()
        TEMPLATES.update(before)
    shown = capsys.readouterr().out
    assert not shown or f"```text\n{shown}```" in PAGES[name]


def test_marked_python_compiles():
    marked = [
        (name, match["code"])
        for name, text in PAGES.items()
        for match in BLOCK.finditer(text)
        if match["language"] == "python" and match["reason"]
    ]
    assert [name for name, _ in marked] == ["docs/evaluation.md"]
    for name, code in marked:
        compile(code, name, "exec")


@pytest.mark.parametrize(("name", "code"), blocks("yaml"))
def test_yaml_is_a_configuration(name, code, fit_parser, place):
    """On top of an experiment."""
    experiment = "scienceqa_7b" if "parser:" in code else "align_7b"
    assert fit_parser.parse_args(["fit", "--config", f"configs/experiment/{experiment}.yaml", "--config", code])


def test_what_the_pages_name_is_there():
    """Files of the repository in code style; those of the reader are not below its folders."""
    missing = {
        (name, path)
        for name, text in PAGES.items()
        for path in re.findall(r"`((?:docs|configs|benchmarks|tests|llava_pl)/[\w./-]+\.\w+)`", text)
        if not (REPOSITORY / path).exists()
    }
    assert not missing


QUOTED = (
    "nothing_supervised",
    "supervises nothing",
    "expected one mark for each",
    "image tokens in input_ids, but",
    "another rank has ended or does not answer, ",
    "its own message stands above, unless it was killed; go on with --ckpt_path last",
    "training stops before it can spoil ",
    "from all ranks together",
    "is empty, shape ",
    "as if it had not been trained; nothing was kept",
    ": cannot be used here: ",
    "expected a model folder or hub name, but ",
)
"""What docs/troubleshooting.md says is printed, as far as it is the same each time."""


@pytest.mark.parametrize("words", QUOTED)
def test_troubleshooting_quotes_what_is_printed(words):
    assert words.rstrip() in PAGES["docs/troubleshooting.md"]
    sources = (path.read_text() for path in (REPOSITORY / "llava_pl").rglob("*.py"))
    # A text of several lines stands in several literals.
    joined = (re.sub(r'"\n\s+f?"', "", text) for text in sources)
    assert any(words in text for text in joined)
