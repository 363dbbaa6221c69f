"""Pages that no file of docs/ holds: those of files elsewhere in the repository, and the settings, read off the code.

In: what mkdocs has found. Out: the same with those pages, `docs/NAME.md` in a text as a link to that page, and words of
code that no line breaks at a hyphen.
"""

from __future__ import annotations

import re
from pathlib import Path

import settings
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[2]

OUTSIDE = {
    "index.md": "README.md",
    "configuration.md": "configs/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "benchmarks.md": "benchmarks/README.md",
}
"""Pages, and the files that they are."""

_LINK = re.compile(r"(?<!\[)`(?:docs/([\w-]+\.md)|((?:configs|benchmarks)/README\.md|CONTRIBUTING\.md|CHANGELOG\.md))`")
_CODE = re.compile(r"<code\b.*?</code>", re.DOTALL)
_TAG = re.compile(r"(<[^>]+>)")
_HYPHENED = re.compile(r"(?<!\S)[\w.-]*-[\w.-]+(?!\S)")
_FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of files that lie elsewhere, and the settings."""
    for page, path in OUTSIDE.items():
        folder = Path(path).parent.as_posix()
        text = (REPOSITORY / path).read_text(encoding="utf-8")
        for name in re.findall(r"\]\(([\w./-]+\.(?:svg|png))\)", text):
            if not name.startswith("docs/"):  # those are there already
                picture = REPOSITORY / folder / name
                files.append(File.generated(config, f"{Path(page).stem}/{name}", content=picture.read_bytes()))
                text = text.replace(f"]({name})", f"]({Path(page).stem}/{name})")
        files.append(File.generated(config, page, content=text.replace("](docs/", "](")))
    files.append(File.generated(config, "settings.md", content=settings.write_settings()))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links of the names of pages, outside of code."""
    del config
    pieces = _FENCE.split(markdown)
    here = "../" * page.file.src_uri.count("/")

    def link(match: re.Match[str]) -> str:
        name = match[1] or next(made for made, path in OUTSIDE.items() if path == match[2])
        if name == page.file.src_uri or files.get_file_from_path(name) is None:
            return match[0]
        return f"[{match[0]}]({here}{name})"

    return "".join(piece if number % 2 else _LINK.sub(link, piece) for number, piece in enumerate(pieces))


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Keep options and names with hyphens whole, which a narrow page would break into `--` and the rest."""
    del page, config, files

    def keep(code: re.Match[str]) -> str:
        pieces = _TAG.split(code[0])
        pieces[::2] = [_HYPHENED.sub(r'<span class="whole">\g<0></span>', text) for text in pieces[::2]]
        return "".join(pieces)

    return _CODE.sub(keep, html)
