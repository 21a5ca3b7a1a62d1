from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from records.html_page import as_html

PAGE = """# A run <b>&

> **Warnings**

## Result

| metric | value |
|---|---|
| `map|all` | 0.5 |
| class <script>alert(1)</script> | 1 |

## Pictures

![A curve](plots/a curve.png) and ![gone](plots/gone.png) and ![out](../secret.png)

```sh
python run.py a=1
```
"""


class Reader(HTMLParser):
    """Collects what a browser would fetch, and which elements there are."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.links: list[str] = []
        self.names: list[str] = []
        self.anchors: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.names.append(tag)
        self.sources += [value for key in ("src", "data") if (value := given.get(key))]
        self.links += [value for key in ("href",) if (value := given.get(key))]
        self.anchors += [value for key in ("id",) if (value := given.get(key))]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "plots").mkdir(parents=True)
    Image.new("RGB", (3, 2), "red").save(folder / "plots" / "a curve.png")
    Image.new("RGB", (3, 2), "red").save(tmp_path / "secret.png")
    return folder / "plots" / "a curve.png"


def test_pictures_are_in_the_page_and_nothing_else_is_fetched(picture: Path) -> None:
    page = PAGE.replace("a curve", "a%20curve")
    reader = Reader()
    text = as_html(page, picture.parents[1])
    reader.feed(text)
    assert reader.sources == ["data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()]
    assert all(link.startswith("#") for link in reader.links)
    assert "link" not in reader.names
    assert "script" not in reader.names
    assert "[no picture: gone]" in text
    assert "[no picture: out]" in text


def test_headings_can_be_reached(picture: Path) -> None:
    reader = Reader()
    reader.feed(as_html(PAGE, picture.parents[1]))
    assert reader.links == ["#section-1", "#section-2"]
    assert reader.anchors == ["section-1", "section-2"]


def test_html_in_the_page_is_text(picture: Path) -> None:
    text = as_html(PAGE, picture.parents[1])
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<title>A run &lt;b&gt;&amp;</title>" in text
    assert text.count("<table>") == text.count('<div class="table">') == 1
