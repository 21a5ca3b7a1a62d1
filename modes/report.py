"""mode=report runs=DIR: any runs and sweeps side by side, as a page, tables, pictures and a log. Torch-free."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from launch.paths import is_path_key
from records import comparison_page as page
from records.atomic_file import write_text
from records.canvas import Picture
from records.comparison import Comparison, compare, read_runs
from records.comparison_figures import comparison_picture, curves_picture, differences_picture
from records.console import console, tell
from records.errors import UserError
from records.html_page import as_html
from records.published import read_published

EXIT_DONE = 0
SHOWN = 20

BEGIN, END = "<!-- comparison of runs -->", "<!-- end of comparison -->"
NOT_RUN = "<!-- not run: this page's own runs -->"
BLOCK = re.compile(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.DOTALL)
KINDS = ("rows", "differences", "curves")
TOLD = ("by", "baseline", "level", "metrics", "published")


def run(config: DictConfig, overrides: list[str]) -> int:
    """Write the comparison that `config` asks for; return the exit code.

    Raises:
        UserError: there are no such runs, none of them completed, or an option is none of the choices.
    """
    settings = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    runs = read_runs(named_folders(settings["runs"]))
    published = () if settings["published"] is None else read_published(settings["published"])
    shown = [str(name) for name in settings["metrics"] or ()]
    asked = settings["by"], settings["baseline"], float(settings["level"])
    comparison = compare(runs, *asked, shown=shown, published=published)
    folder = Path(settings["paths"]["run_dir"])
    title = settings["title"] or "Comparison of runs"
    write(comparison, folder, title)
    if settings["into"] is not None:
        write_into(comparison, Path(settings["into"]), title, overrides)
    show(comparison, folder)
    return EXIT_DONE


def named_folders(runs: str | Sequence[str] | None) -> list[str]:
    """Return the folders that `runs` names, one or a list.

    Raises:
        UserError: it names none.
    """
    folders = [runs] if isinstance(runs, str) else [str(one) for one in runs or ()]
    if not folders:
        raise UserError("runs: name a run, a sweep, or a folder of them: mode=report runs=DIR, or runs=[DIR,DIR]")
    return folders


def write(comparison: Comparison, folder: Path, title: str) -> None:
    """Write report.md, report.html, the tables, and the pictures into a folder."""
    boards = board_sections(comparison, folder, ".")
    text = joined([heading(comparison, title), *boards, page.failures(comparison), page.log(comparison)])
    write_text(folder / "report.md", text)
    write_text(folder / "report.html", as_html(text, folder))
    tables = {
        "leaderboard.csv": page.as_csv(comparison),
        "leaderboard.tex": page.as_latex(comparison),
        "differences.csv": page.differences_csv(comparison),
        "runs.csv": page.runs_csv(comparison),
    }
    for name, content in tables.items():
        write_text(folder / name, content)


def board_sections(comparison: Comparison, folder: Path, link: str) -> list[str]:
    """Return the sections of every data set, and save their pictures into a folder that is linked to as `link`."""
    sections = []
    for board in comparison.boards:
        drawn = comparison_picture(board), differences_picture(board), curves_picture(board)
        pictures = [_saved(one, folder, link, f"{board.data}_{kind}") for one, kind in zip(drawn, KINDS, strict=True)]
        tables = page.board_section(board), page.differences(board)
        rows, differences, curves = pictures
        sections += [tables[0], rows, curves, tables[1], differences, page.circumstances(board, is_path_key)]
    return sections


def _saved(picture: Picture | None, folder: Path, link: str, name: str) -> str:
    """Save a picture; return what shows it on a page, nothing where there is none."""
    if picture is None:
        return ""
    picture.save(folder / f"{name}.png")
    place = f"{name}.png" if link == "." else f"{link}/{name}.png"
    return f"![{picture.title}]({place})\n\n{picture.description}"


def heading(comparison: Comparison, title: str) -> str:
    """Return the title, and how much was compared and when."""
    return f"# {title}\n\n{_counted(comparison)}."


def _counted(comparison: Comparison) -> str:
    rows = sum(len(board.rows) for board in comparison.boards)
    data = ", ".join(board.data for board in comparison.boards)
    today = datetime.now(UTC).date().isoformat()
    return f"Written on {today} from {comparison.counted} of {len(comparison.runs)} runs, in {rows} rows, on {data}"


def write_into(comparison: Comparison, file: Path, title: str, overrides: Sequence[str]) -> None:
    """Write leaderboard, differences and circumstances into a Markdown file, its pictures into a folder beside it.

    What stands between the two comment lines is replaced, the rest of the file stays. A file that does not exist is
    made, with the title.

    Raises:
        UserError: the file has no such lines.
    """
    if file.suffix != ".md":
        raise UserError(f"into={file}: the name of a Markdown file ends in .md")
    sections = [_made_by(comparison, overrides), *board_sections(comparison, file.with_suffix(""), file.stem)]
    # a page of the documentation says why the commands that made it are not run again
    marked = joined(sections).replace("```sh\n", f"{NOT_RUN}\n```bash\n")
    block = f"{BEGIN}\n\n{marked}\n{END}"
    old = file.read_text(encoding="utf-8") if file.is_file() else f"# {title}\n\n{BEGIN}\n{END}\n"
    if not BLOCK.search(old):
        raise UserError(f"into={file}: the page has no lines to write between; add these two to it:\n{BEGIN}\n{END}")
    write_text(file, BLOCK.sub(lambda _: block, old, count=1))


def _made_by(comparison: Comparison, overrides: Sequence[str]) -> str:
    """Return the line that made a published page, without the places of this machine."""
    kept = [one for one in overrides if one.partition("=")[0] in TOLD and not Path(one.partition("=")[2]).is_absolute()]
    told = ["mode=report", "runs=DIR", *kept]
    return f"{_counted(comparison)}, by\n\n```sh\n{shlex.join(['python', 'run.py', *told])}\n```"


def joined(sections: Sequence[str]) -> str:
    """Return the sections that say something as one page."""
    return "\n\n".join(section for section in sections if section) + "\n"


def show(comparison: Comparison, folder: Path) -> None:
    """Print the best rows of every data set, what differs, and where everything lies."""
    screen = console(highlight=False, markup=False)
    for board in comparison.boards:
        table = Table(title=f"{board.data} by {board.metric}", title_justify="left")
        for name in ("row", "runs", "mean", "± 95 %"):
            table.add_column(name, justify="left" if name == "row" else "right")
        for row in board.rows[:SHOWN]:
            found = row.metrics.get(board.metric)
            numbers = _numbers(found.mean, found.half_width) if found else ("", "")
            name = f"{row.name} (transductive)" if row.is_transductive else row.name
            table.add_row(name, str(len(row.runs)), *numbers)
        screen.print(table)
        if len(board.rows) > SHOWN:
            screen.print(f"the first {SHOWN} of {len(board.rows)} rows")
        for one in board.tested[:SHOWN]:
            screen.print(page.statement(board, one).replace("`", ""), soft_wrap=True)
    tell(f"report: {folder / 'report.html'}")


def _numbers(mean: float, half_width: float) -> tuple[str, str]:
    return f"{mean:.4f}", "" if math.isnan(half_width) else f"{half_width:.4f}"
