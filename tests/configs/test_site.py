"""Guards the site: a link that leads nowhere, a setting without its words, a page that needs a network."""

import re
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from llava_pl.app.completion_command import lightning_parsers
from llava_pl.models.adapters import LoraConfig
from llava_pl.training.stages import TrainablePlan

mkdocs = pytest.importorskip("mkdocs", reason="needs the extra [docs]")

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def hooks():
    """The modules of docs/hooks, as mkdocs finds them: pages, and settings, which it imports."""
    sys.path.insert(0, str(REPOSITORY / "docs" / "hooks"))
    try:
        yield import_module("pages")
    finally:
        sys.path.pop(0)
        for name in ("pages", "settings"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def sections(hooks):
    """The settings by section."""
    return {title: found for title, _, found in hooks.settings.collect_settings()}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as `make docs` builds it; a warning ends the build."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        patch.chdir(REPOSITORY)
        config = load_config(str(REPOSITORY / "mkdocs.yml"), strict=True, site_dir=str(folder))
        config.plugins.on_startup(command="build", dirty=False)
        build(config)
        config.plugins.on_shutdown()
    return folder


def test_every_setting_has_its_words(sections):
    assert all(sections.values())
    without = [each.name for settings in sections.values() for each in settings if len(each.text) < 8 or not each.kind]
    assert not without


def test_every_setting_of_the_parser_is_there(hooks, sections):
    listed = {each.name for settings in sections.values() for each in settings}
    parsed = {each.name for each in hooks.settings._of_parser(lightning_parsers()["fit"])}
    elsewhere = {name for name in parsed if name.startswith("trainer") or name in ("data", "weights_only")}
    assert parsed - elsewhere <= listed
    # What the parser looks into only when it is named, by the classes themselves.
    for group, kind in (("model.trainable", TrainablePlan), ("model.lora", LoraConfig)):
        assert {f"{group}.{field.name}" for field in fields(kind)} <= listed
    assert not {name for name in listed if name in hooks.settings.LINKED}


@pytest.mark.parametrize(
    ("name", "kind", "default", "words"),
    [
        ("model.stage", "align | finetune", "required", "trains the projector alone"),
        ("model.decoder.attention", "sdpa | eager | flash_attention_2", "sdpa", "as transformers names it"),
        ("model.optim.betas", "[float, float]", "[0.9, 0.999]", "averages of Adam"),
        ("model.lora.targets", "list of str | null", "null", "Names of linear layers"),
        ("data.init_args.records[].repeats", "float", "", "How often an epoch"),
        ("data.init_args.grid_pinpoints", "list of [int, int] | null", "null", 'With "anyres"'),
        ("data.init_args.image_sources", "list of (own | other | grey | none)", "[own]", "Pictures to ask with"),
        ("save_in_background", "bool", "true", "Train on"),
        ("blind", "bool", "false", "Ask every question also"),
    ],
)
def test_types_and_defaults(sections, name, kind, default, words):
    (found,) = [each for settings in sections.values() for each in settings if each.name == name]
    assert (found.kind, found.default) == (kind, default)
    assert words in found.text


def test_every_setting_is_on_the_page(site, sections):
    page = (site / "settings.html").read_text(encoding="utf-8")
    assert {name for settings in sections.values() for name in (each.name for each in settings)} <= set(
        re.findall(r"<td><code>([^<]+)</code><br", page)
    )
    assert "&lt;im_patch&gt;" in page or "&lt;im_patch>" in page


def test_nothing_is_asked_of_the_network(site):
    for path in (*site.rglob("*.html"), *site.glob("*.css")):
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|link|iframe)\b[^>]*?(?:src|href)="(https?:)?//', text)
        assert not loaded, path
        assert not re.search(r"(?:url\(|@import)\s*['\"]?https?:", text), path


def test_names_of_pages_are_links(site):
    assert '<a href="planning.html"><code>docs/planning.md</code></a>' in (site / "index.html").read_text()
    link = '<a href="configuration.html"><code>configs/README.md</code></a>'
    assert all(link in (site / f"{page}.html").read_text() for page in ("recipes", "data"))


def test_nothing_else_than_pages_is_published(site):
    assert not list(site.rglob("*.py"))


def test_no_line_breaks_within_an_option(site):
    page = (site / "migration.html").read_text()
    assert '<code><span class="whole">--vision_tower</span></code>' in page
    assert '<span class="whole">llava-pl</span><span class="w"> </span>chat' in page
    assert not re.search(r'<[^>]*<span class="whole">', (site / "tutorial.html").read_text())


def test_doctests_are_code(site):
    page = (site / "api" / "data.html").read_text()
    assert "<blockquote>" not in page
    assert "Examples:" in page
