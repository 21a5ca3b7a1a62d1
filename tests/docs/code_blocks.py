"""The code blocks of README.md and docs/, and what the comment line before a block says is done with it.

<!-- not run: REASON -->   nothing is run; its commands are composed and checked all the same
<!-- ci -->                .ci/run runs it, in a fresh virtual environment
<!-- file: PATH -->        it is the file PATH of the project; later blocks of the page are run with it
<!-- refused -->           a command with mistakes; the next block is what it prints
no comment                 bash and python: run by test_code_blocks.py, or by the page's own test;
                           text: a layout, a formula or an output, and no command
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

HOUSE = Path(__file__).resolve().parents[2]
README, CHINESE = HOUSE / "README.md", HOUSE / "README.zh-CN.md"
PAGES = (README, CHINESE, *sorted((HOUSE / "docs").rglob("*.md")))

BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*?) -->\n)?(?P<fence>```+|~~~+)(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=fence)$",
    re.DOTALL | re.MULTILINE,
)
SPAN = re.compile(r"`(python run\.py [^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block: the page's path in the project, the fence's line, its language, the mark before it, its text."""

    page: str
    line: int
    language: str
    mark: str
    text: str

    @property
    def place(self):
        return f"{self.page}:{self.line}"

    @property
    def kind(self):
        return self.mark.partition(":")[0]

    @property
    def argument(self):
        return self.mark.partition(":")[2].strip()

    @property
    def is_shell(self):
        return self.language == "bash"

    @property
    def commands(self):
        """The words of each command, comments left out; a backslash at a line's end joins it with the next one."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks_of(page):
    """Return the fenced blocks of a page in their order."""
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(HOUSE).as_posix()
    return [
        Block(name, text[: found.start("fence")].count("\n") + 1, found["language"], found["mark"] or "", found["text"])
        for found in BLOCK.finditer(text)
    ]


def without_blocks(page):
    """Return the text of a page with its fenced blocks left out."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def runs_of(page):
    """Return the arguments of every `python run.py` of a page, in blocks and in code spans, with where it stands."""
    found = [
        (block.place, words[2:])
        for block in blocks_of(page)
        if block.is_shell and block.kind != "refused"
        for words in block.commands
        if words[:2] == ["python", "run.py"]
    ]
    name = page.relative_to(HOUSE).as_posix()
    return found + [(name, shlex.split(span)[2:]) for span in SPAN.findall(without_blocks(page))]
