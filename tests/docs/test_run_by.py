"""The table of who runs which command is complete, and holds nothing that is gone."""

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.docs.commands import Command, shown_commands
from tests.docs.run_by import NOT_RUN, RUN_BY

ROOT = Path(__file__).parents[2]
# what a release holds is generated: the release's own tests and `samtune verify` see to it
PAGES = ("docs/", "CONTRIBUTING.md", "bundles/sam_finetune/")
SHOWN = [command for command in shown_commands(ROOT) if command.page.startswith(PAGES)]


def parts_of(command: Command) -> list[str]:
    """All parts that the tables have of a command, the longest last."""
    text = " ".join(command.words)
    listed = [*RUN_BY.get(command.page, {}), *NOT_RUN.get(command.page, {})]
    return sorted((part for part in listed if part in text), key=len)


@cache
def functions_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("command", SHOWN, ids=str)
def test_a_command_is_run_by_a_test_or_listed(command: Command):
    assert parts_of(command), f"{command}: add it to tests/docs/run_by.py"


def test_every_entry_is_still_needed():
    used = {(command.page, parts_of(command)[-1]) for command in SHOWN if parts_of(command)}
    entries = [
        (page, part) for table in (RUN_BY, NOT_RUN) for page in table for part in table[page]
    ]
    assert [entry for entry in entries if entry not in used] == []
    assert len(entries) == len(set(entries))


def test_every_test_is_there():
    named = [test for parts in RUN_BY.values() for test in parts.values()]
    gone = [test for test in named if test.split("::")[1] not in functions_of(test.split("::")[0])]
    assert gone == []
