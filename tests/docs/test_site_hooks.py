"""What docs/site_hooks.py makes of links and of bars in tables; the strict build of the site judges the whole."""

import importlib.util
import posixpath
from pathlib import Path
from types import SimpleNamespace

import pytest

HOUSE = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("site_hooks", HOUSE / "docs" / "site_hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rewritten(hooks, text, page):
    return hooks.on_page_markdown(text, SimpleNamespace(file=SimpleNamespace(src_uri=page)), None, None)


@pytest.mark.parametrize(
    ("page", "link", "target"),
    [
        ("index.md", "docs/hashing.md", "hashing.md"),
        ("index.md", "docs/metrics.md#ties", "metrics.md#ties"),
        ("index.md", "CHANGELOG.md", "changelog.md"),
        ("index.md", "run.py", "source/run.py.md"),
        ("hashing.md", "metrics.md", "metrics.md"),
        ("hashing.md", "../README.md#install", "index.md#install"),
        ("hashing.md", "../lit_modules/hashing/greedyhash.py", "source/lit_modules/hashing/greedyhash.py.md"),
        ("results/fewshot_clip.md", "../fewshot.md", "../fewshot.md"),
        ("results/fewshot_clip.md", "../../README.zh-CN.md", "../readme-zh-cn.md"),
        ("results/fewshot_clip.md", "../../benchmarks/fewshot_table.py", "../source/benchmarks/fewshot_table.py.md"),
    ],
)
def test_a_link_leads_to_the_page_of_the_site(hooks, page, link, target):
    assert rewritten(hooks, f"see [this]({link}), too", page) == f"see [this]({target}), too"
    place = posixpath.normpath(posixpath.join(posixpath.dirname(page), target.partition("#")[0]))
    source = place.removeprefix("source/").removesuffix(".md")
    fronts = {front: name for name, front in hooks.FRONT_PAGES.items()}
    assert any((HOUSE / one).is_file() for one in (f"docs/{place}", source, fronts.get(place, "no such file")))


@pytest.mark.parametrize(
    "text",
    [
        "[paper](https://arxiv.org/abs/1)", "[mail](mailto:a@b.c)", "[here](#part)", "[none](no-such-file.md)",
        "[out](../../elsewhere.py)", "a\\](run.py) is no link",
    ],
)  # fmt: skip
def test_other_links_stay(hooks, text):
    assert rewritten(hooks, text, "hashing.md") == text


def test_pages_that_are_generated_are_left_alone(hooks):
    assert rewritten(hooks, "[a](../run.py)", "api/records.md") == "[a](../run.py)"


def test_a_bar_in_a_tables_code_is_shown_as_a_bar(hooks):
    row = "| `a \\| b < c` | `plain` | x |"
    assert rewritten(hooks, row, "hashing.md") == "| <code>a &#124; b &lt; c</code> | `plain` | x |"
    assert rewritten(hooks, "no table: `a \\| b`", "hashing.md") == "no table: `a \\| b`"


def test_files_outside_docs_that_pages_link_to_become_pages(hooks):
    pages = [SimpleNamespace(src_uri=name) for name in ("index.md", "adding-a-method.md", "api/records.md")]
    linked = hooks.linked_files(SimpleNamespace(documentation_pages=lambda: pages))
    assert linked
    assert all((HOUSE / path).is_file() and not path.startswith("docs/") for path in linked)
    assert not linked & set(hooks.FRONT_PAGES)
    assert hooks.source_text("run.py").startswith("# run.py\n\n````python\n")
