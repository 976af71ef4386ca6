"""The shell commands that README and docs show, taken from their code blocks."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "bundles/*/docs/README.md")
FENCE = re.compile(r"^```(\w*)$")
OURS = ("samtune", "python", "torchrun", "bash")
FOREIGN = ("git", "pip", "source", "cd", "cp", "curl", "monailabel", "pre-commit")
ASSIGNMENT = re.compile(r"^[A-Z]+=\S* ")


@dataclass(frozen=True)
class Command:
    """One command of a page.

    Attributes:
        page: relative to the repository.
        line: in the page, from 1.
        words: as a shell splits it, without variables set before it.
    """

    page: str
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {shlex.join(self.words)}"


def shown_commands(root: Path) -> list[Command]:
    """All commands in code blocks without a language or with ``bash``, in order."""
    found = []
    for pattern in PAGES:
        for path in sorted(root.glob(pattern)):
            page = path.relative_to(root).as_posix()
            found += _of_page(page, path.read_text(encoding="utf-8").splitlines())
    return found


def _of_page(page: str, lines: list[str]) -> list[Command]:
    found: list[Command] = []
    language, begun, text = None, 0, ""
    for number, line in enumerate(lines, start=1):
        fence = FENCE.match(line)
        if fence or line == "```":
            language = (fence.group(1) if fence else "") if language is None else None
            text = ""
            continue
        if language not in ("", "bash"):
            continue
        begun = begun if text else number
        text += line.removesuffix("\\") if line.endswith("\\") else line
        if line.endswith("\\"):
            continue
        text = ASSIGNMENT.sub("", text)
        # a drawing or a folder tree begins with no program's name
        if text.split(" ")[0] in OURS + FOREIGN:
            for part in " ".join(_plain(text)).split(" && "):
                found.append(Command(page, begun, tuple(shlex.split(part))))
        text = ""
    return found


def _plain(text: str) -> list[str]:
    """Words still quoted, without comments."""
    lexer = shlex.shlex(text, posix=False, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.commenters = "#" if " #" in text else ""
    return list(lexer)
