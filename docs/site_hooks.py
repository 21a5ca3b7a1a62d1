"""What the documentation site adds to the pages of docs/: the project's front pages, its API, files that are linked to.

A link of a page works on the code host as it stands. In the site, a file outside docs/ that a page links to becomes a
page too: README.md, README.zh-CN.md and CHANGELOG.md as they are, any other file as its source text. Each package of
pyproject.toml becomes a page below api/, written by mkdocstrings from the docstrings.
"""

from __future__ import annotations

import html
import os
import posixpath
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
FRONT_PAGES = {"README.md": "index.md", "README.zh-CN.md": "readme-zh-cn.md", "CHANGELOG.md": "changelog.md"}
"""File of the project to page of the site."""

LINK = re.compile(r"(?<!\\)\]\((?!https?://|mailto:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
CODE = re.compile(r"`(?P<code>[^`\n]+)`")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".md": "markdown", ".sh": "bash"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the API at the end of the navigation."""
    pages = [{package: f"api/{package}.md"} for package in packages()]
    config.nav = [*(config.nav or []), {"API": pages}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the front pages, the pages of the API, and each file of the project that a page links to."""
    from mkdocs.structure.files import File, InclusionLevel

    for package in packages():
        files.append(File.generated(config, f"api/{package}.md", content=api_page(package)))
    for name, page in FRONT_PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    for path in sorted(linked_files(files)):
        files.append(
            File.generated(config, source_page(path), content=source_text(path), inclusion=InclusionLevel.NOT_IN_NAV)
        )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the project into links to pages of the site, and escaped bars in tables into bars."""
    place = place_in_project(page.file.src_uri)
    if place is None:
        return markdown
    rows = [CODE.sub(_with_bars, row) if row.startswith("|") else row for row in markdown.split("\n")]
    markdown = "\n".join(rows)
    return LINK.sub(lambda link: _rewritten(link, place, page.file.src_uri), markdown)


def packages() -> list[str]:
    """Return the packages that pyproject.toml installs, in its order."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    names: list[str] = settings["tool"]["setuptools"]["packages"]
    return names


def modules_of(package: str) -> list[str]:
    """Return the dotted names of a package's own modules, those of packages inside it left out."""
    folder = ROOT / package.replace(".", "/")
    return [f"{package}.{file.stem}" for file in sorted(folder.glob("*.py")) if file.stem != "__init__"]


def api_page(package: str) -> str:
    """Write the page of a package: a heading and mkdocstrings' directive for each of its modules."""
    parts = [f"# {package}", f"::: {package}\n    options:\n      members: false"]
    for module in modules_of(package):
        parts += [f"## {module.removeprefix(package + '.')} {{ #{module} }}", f"::: {module}"]
    return "\n\n".join(parts) + "\n"


def place_in_project(page: str) -> str | None:
    """Return where in the project the text of a page lies, "docs/hashing.md"; None for a page that is generated."""
    for name, front in FRONT_PAGES.items():
        if page == front:
            return name
    place = f"docs/{page}"
    return place if (ROOT / place).is_file() else None


def linked_files(files: Files) -> set[str]:
    """Return the files of the project outside docs/ that pages link to, front pages left out."""
    linked = set()
    for file in files.documentation_pages():
        place = place_in_project(file.src_uri)
        if place is None:
            continue
        for link in LINK.finditer((ROOT / place).read_text("utf-8")):
            target = _target(link["path"], place)
            if _is_outside(target) and target not in FRONT_PAGES:
                linked.add(target)
    return linked


def source_text(path: str) -> str:
    """Write the page that shows a file of the project as text."""
    file = ROOT / path
    return f"# {path}\n\n````{LANGUAGES.get(file.suffix, 'text')}\n{file.read_text('utf-8')}````\n"


def source_page(path: str) -> str:
    """Return the page that shows a file of the project as text."""
    return f"source/{path}.md"


def _with_bars(span: re.Match[str]) -> str:
    """Write a code span with a bar as HTML: Python-Markdown keeps the backslash before it, the code host does not."""
    if "\\|" not in span["code"]:
        return span[0]
    text = html.escape(span["code"].replace("\\|", "|"), quote=False)
    return "<code>" + re.sub(r"[|_*\[\]`]", lambda sign: f"&#{ord(sign[0])};", text) + "</code>"


def _target(link: str, place: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(place), link))


def _is_outside(target: str) -> bool:
    return not target.startswith(("docs/", "../")) and (ROOT / target).is_file()


def _rewritten(link: re.Match[str], place: str, page: str) -> str:
    target = _target(link["path"], place)
    if target.startswith("docs/"):
        there = target.removeprefix("docs/")
    elif target in FRONT_PAGES:
        there = FRONT_PAGES[target]
    elif _is_outside(target):
        there = source_page(target)
    else:
        return link[0]  # the strict build says that it leads nowhere
    here = posixpath.dirname(page) or "."
    return f"]({os.path.relpath(there, here)}{link['anchor'] or ''})"
