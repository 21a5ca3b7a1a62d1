"""Write the tables of methods into the pages of docs/, from conf/task/ and the docstrings of the methods' modules.

A page asks for the table of a pillar by two comment lines, between which it is written:

    <!-- methods of hashing -->
    <!-- end of methods -->

The pillar is a folder of lit_modules/. A row comes from one YAML of conf/task/ (name, needs, defaults) and from the
docstring of its module: the first paragraph says what the method is (`NAME: one sentence.`), one that begins with
`Loss:` says its loss, and one with a title in double quotes is the paper.

    python docs/generate.py            write the pages
    python docs/generate.py --check    write nothing; exit 1 where a page is not up to date
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCS, TASKS = ROOT / "docs", ROOT / "conf" / "task"

TABLE = re.compile(r"(<!-- methods of (?P<pillar>\w+) -->\n).*?(<!-- end of methods -->)", re.DOTALL)
PAPER = re.compile(r"^(?P<authors>[^\"`()]+), \"(?P<title>[^\"]+?),?\",? (?P<venue>.+)$")
LINK = re.compile(r"https?://[^\s,;)]+")

NO_DEFAULTS = (
    "defaults", "name", "needs", "monitor", "direction", "bits", "seed", "gather_batch", "stages", "stage",
    "class_weights",
)  # fmt: skip
"""Keys that are no choice of the method, or that all methods of a pillar have."""


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        name: what `task=` takes.
        pillar: the folder of lit_modules/ its module lies in.
        what: one sentence.
        loss: formula in one line; empty where the docstring has none.
        paper: reference in Markdown; empty where there is no paper.
        needs: what the data must provide.
        defaults: key to value of the method's own settings.
    """

    name: str
    pillar: str
    what: str
    loss: str
    paper: str
    needs: tuple[str, ...]
    defaults: Mapping[str, Any]


def read_methods(tasks: Path = TASKS, root: Path = ROOT) -> list[Method]:
    """Read every method of conf/task/, sorted by name.

    Raises:
        ValueError: a YAML names no module of lit_modules/, or its module has no docstring.
    """
    return [read_method(path, root) for path in sorted(tasks.glob("*.yaml"))]


def read_method(path: Path, root: Path = ROOT) -> Method:
    """Read one method from its YAML and the docstring of its module.

    Raises:
        ValueError: as `read_methods`.
    """
    settings = read_settings(path)
    parts = str(settings.get("_target_", "")).split(".")
    if len(parts) < 4 or parts[0] != "lit_modules":
        raise ValueError(f"{path}: _target_ is {'.'.join(parts)!r}; a method is lit_modules.PILLAR.MODULE.CLASS")
    module = root.joinpath(*parts[:-1]).with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))
    if not docstring:
        raise ValueError(f"{module}: the module has no docstring; its first line says what the method is")
    paragraphs = [" ".join(paragraph.split()) for paragraph in docstring.split("\n\n")]
    losses = [text.removeprefix("Loss:").strip() for text in paragraphs if text.startswith("Loss:")]
    papers = [reference for text in paragraphs[1:] if (reference := as_reference(text))]
    return Method(
        name=path.stem,
        pillar=parts[1],
        what=paragraphs[0],
        loss=losses[0] if losses else "",
        paper=papers[0] if papers else "",
        needs=tuple(settings.get("needs", ())),
        defaults={key: value for key, value in settings.items() if is_default(key, value)},
    )


def read_settings(path: Path) -> dict[str, Any]:
    """Read a task's own keys, over those of the tasks that its defaults list names."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    bases = [entry for entry in content.get("defaults", []) if isinstance(entry, str) and entry != "_self_"]
    inherited = [read_settings(path.with_name(base).with_suffix(".yaml")) for base in bases]
    own = content.get("task", content)
    return {key: value for settings in (*inherited, own) for key, value in settings.items()}


def is_default(key: str, value: Any) -> bool:
    """Say whether a key of a task is a setting of the method that its table names."""
    return not key.startswith("_") and key not in NO_DEFAULTS and (key, value) != ("init_std", None)


def as_reference(text: str) -> str:
    """Return a paragraph `AUTHORS, "TITLE", VENUE. LINK` as authors, linked title, venue; empty if it is none."""
    link = LINK.search(text)
    before = (text[: link.start()] if link else text).strip()
    found = PAPER.match(before)
    if not found:
        return ""
    title = f"[{found['title']}]({link[0].rstrip('.')})" if link else found["title"]
    venue = re.split(r"[,;.] | \(", found["venue"] + " ")[0].strip().rstrip(".,;")
    return f"{short_authors(found['authors'])}: {title}, {venue}"


def short_authors(authors: str) -> str:
    """Return the first of several authors with `et al.`; one or two stay as they are."""
    names = re.split(r", | and ", authors)
    return authors if len(names) <= 2 else f"{names[0]} et al."


def table_of(pillar: str, methods: Sequence[Method]) -> str:
    """Return the Markdown table of one pillar's methods.

    Raises:
        ValueError: the pillar has no method.
    """
    rows = [method for method in methods if method.pillar == pillar]
    if not rows:
        raise ValueError(f"no task of conf/task/ lies in lit_modules/{pillar}/")
    lines = ["| task | method | paper | data | defaults |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in _cells(method))} |" for method in rows]
    return "\n".join(lines) + "\n"


def filled(page: str, methods: Sequence[Method]) -> str:
    """Return the text of a page with its tables written anew."""
    return TABLE.sub(lambda found: f"{found[1]}\n{table_of(found['pillar'], methods)}\n{found[3]}", page)


def main() -> int:
    """Write the pages, or check them; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page is not up to date")
    check = parser.parse_args().check
    methods = read_methods()
    stale = []
    for path in sorted(DOCS.rglob("*.md")):
        old = path.read_text(encoding="utf-8")
        new = filled(old, methods)
        if new != old:
            stale.append(path.relative_to(ROOT).as_posix())
            if not check:
                path.write_text(new, encoding="utf-8")
    for name in stale:
        print(f"{name} is not up to date: run python docs/generate.py" if check else f"{name} written")
    return int(check and bool(stale))


def _cells(method: Method) -> tuple[str, ...]:
    what = method.what if not method.loss else f"{method.what}<br>`{method.loss}`"
    defaults = ", ".join(f"`{key}={_value(value)}`" for key, value in method.defaults.items())
    return f"`{method.name}`", what, method.paper, ", ".join(method.needs), defaults


def _value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, Mapping) and value:
        return "{...}"
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    sys.exit(main())
