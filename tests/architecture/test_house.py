"""Guards: the house drifts from its plan: layers, size of files, names, tests that do not mirror the package."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "llava_pl"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 300


def relative(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_file_is_small_and_opens_with_its_place(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert text.isascii()
    assert ast.get_docstring(ast.parse(text)), "a module says what comes in and what goes out"
    assert path.stem not in ("utils", "common", "helpers")


@pytest.mark.parametrize("path", [p for p in MODULES if not p.name.startswith("__")], ids=relative)
def test_module_has_a_test_at_the_mirrored_path(path):
    mirrored = REPOSITORY / "tests" / path.relative_to(PACKAGE).with_name(f"test_{path.name}")
    assert mirrored.is_file()


def test_tests_mirror_modules():
    for path in (REPOSITORY / "tests").glob("*/test_*.py"):
        if path.parent.name in ("parity", "configs", "integration", "architecture", "notebooks"):
            continue
        home = REPOSITORY if path.parent.name == "benchmarks" else PACKAGE
        module = home / path.parent.name / path.name.removeprefix("test_")
        assert module.is_file(), f"{relative(path)} tests {relative(module)}, which does not exist"


@pytest.mark.parametrize("path", sorted((REPOSITORY / "tests").rglob("test_*.py")), ids=relative)
def test_test_file_names_the_risk_it_guards(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_layers_hold():
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout


def test_importing_the_package_imports_no_torch():
    code = "import sys, llava_pl, llava_pl.cli, llava_pl.types; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


TRANSFORMERS_HOMES = re.compile(
    r"llava_pl/(models/(attention|connectors|decoder|fused|recompute|roomy_cache|vision_encoder)|data/(tokenization|image|llama_tokenizer)"
    r"|export/\w+|demo/\w+)\.py"
)


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_transformers_is_imported_in_its_few_places(path):
    imported = {
        name.partition(".")[0]
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    assert "transformers" not in imported or TRANSFORMERS_HOMES.fullmatch(relative(path))


@pytest.mark.parametrize("path", [*MODULES, *sorted((REPOSITORY / "benchmarks").glob("*.py"))], ids=relative)
def test_options_are_spelled_with_underscores(path):
    """As Lightning's are; those of other programs, which are given and not declared, are theirs to spell."""
    added = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument"
    ]
    texts = [text for node in added for name in node.args for text in ast.walk(name) if isinstance(text, ast.Constant)]
    assert not [text.value for text in texts if re.match(r"--\w.*-", str(text.value))]


def test_what_is_to_be_installed_is_an_extra_of_the_checkout():
    """No index has this package under its name, so that only a checkout brings its extras."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = {*project["optional-dependencies"], "NAME"}
    below = (path for kind in ("py", "md", "ipynb") for path in REPOSITORY.glob(f"[a-zA-Z]*/**/*.{kind}"))
    for path in (*REPOSITORY.glob("*.md"), *below):
        asked = re.findall(r"""pip install (?:-e )?\\?['"]([\w.-]*)\[(\w+)\]""", path.read_text())
        assert all(name == "." and extra in extras for name, extra in asked), relative(path)
