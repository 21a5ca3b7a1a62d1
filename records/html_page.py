"""A page in Markdown as one HTML file that needs nothing else: its pictures are in it, and no script and no network."""

from __future__ import annotations

import base64
import html
import mimetypes
import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    import os

PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp")

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color: #222222; background: #ffffff; font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; }}
body {{ max-width: 66rem; margin: 0 auto; padding: 1.5rem; }}
h1 {{ font-size: 1.7rem; }} h2 {{ margin-top: 2.5rem; border-bottom: 2px solid #0072B2; }}
a {{ color: #005A8D; }}
nav ul {{ display: flex; flex-wrap: wrap; gap: 0.3rem 1.2rem; padding: 0; list-style: none; }}
.table {{ overflow-x: auto; max-height: 40rem; overflow-y: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.3rem 0.8rem; border-bottom: 1px solid #d9d9d9; text-align: left; vertical-align: top; }}
thead th {{ position: sticky; top: 0; background: #f2f5f7; }} thead:not(:has(th:not(:empty))) {{ display: none; }}
code, pre {{ font-family: "DejaVu Sans Mono", monospace; font-size: 0.9em; overflow-wrap: anywhere; }}
th code, td:not(:last-child) code {{ overflow-wrap: normal; white-space: nowrap; }}
table:has(th:nth-child(7)) td {{ white-space: nowrap; }}
pre {{ padding: 0.8rem; background: #f2f5f7; white-space: pre-wrap; }}
blockquote {{ margin: 1rem 0; padding: 0.2rem 1rem; border-left: 5px solid #D55E00; background: #fdf3ec; }}
img {{ max-width: 100%; height: auto; }}
@media print {{ .table {{ max-height: none; overflow: visible; }} nav {{ display: none; }} }}
</style>
</head>
<body>
{contents}{body}</body>
</html>
"""


def as_html(markdown: str, folder: str | os.PathLike[str]) -> str:
    """Return a page in Markdown (CommonMark with tables) as one HTML document.

    Pictures below `folder` are written into the document; one that is missing is told by its own text. HTML in the
    Markdown is shown as text, since names of classes and files stand in our pages.

    Args:
        markdown: the page; its first heading is the document's title.
        folder: what relative links start from.
    """
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    contents = _name_headings(tokens)
    for token in tokens:
        for child in token.children or ():
            if child.type == "image":
                _embed(child, Path(folder))
    body = str(parser.renderer.render(tokens, parser.options, {}))
    body = body.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")
    heading = re.search(r"^# (.+)$", markdown, flags=re.MULTILINE)
    title = html.escape(heading[1].strip() if heading else "report")
    return _PAGE.format(title=title, contents=contents, body=body)


def _name_headings(tokens: list[Any]) -> str:
    """Give every second-level heading an anchor; return links to them."""
    links: list[str] = []
    for token, text in pairwise(tokens):
        if token.type == "heading_open" and token.tag == "h2":
            anchor = f"section-{len(links) + 1}"
            token.attrSet("id", anchor)
            links.append(f'<li><a href="#{anchor}">{html.escape(text.content)}</a></li>')
    return f"<nav><ul>{''.join(links)}</ul></nav>\n" if len(links) > 1 else ""


def _embed(image: Any, folder: Path) -> None:
    source = unquote(str(image.attrGet("src") or ""))
    file = (folder / source).resolve()
    if file.suffix.lower() not in PICTURES or not file.is_relative_to(folder.resolve()) or not file.is_file():
        image.type, image.tag, image.content = "text", "", f"[no picture: {image.content or source}]"
        return
    kind = mimetypes.guess_type(file.name)[0]
    image.attrSet("src", f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode('ascii')}")
