"""Every command that README and docs show is one that the programs take: options, keys, files."""

import argparse
import ast
from importlib import import_module, util
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from samtune.cli import VERBS, _build_parser
from tests.docs.commands import Command, shown_commands

ROOT = Path(__file__).parents[2]
COMMANDS = shown_commands(ROOT)
# programs that are not ours
FOREIGN = {"git", "pip", "source", "cd", "pre-commit"}


def of(*programs: str) -> list[Command]:
    return [command for command in COMMANDS if command.words[0] in programs]


def bundle_runs() -> list[Command]:
    return [command for command in COMMANDS if "monai.bundle" in command.words]


def test_the_pages_show_commands():
    assert len(of("samtune")) > 25
    assert len(bundle_runs()) > 8


@pytest.mark.parametrize("command", of("samtune"), ids=str)
def test_samtune_takes_the_options(command: Command):
    verb = next((word for word in command.words[1:] if not word.startswith("-")), None)
    assert verb in VERBS
    parser, subparsers = _build_parser()
    import_module(VERBS[verb].module).add_arguments(subparsers[verb])
    parser.exit_on_error = subparsers[verb].exit_on_error = False
    try:
        parser.parse_args(list(command.words[1:]))
    except (SystemExit, argparse.ArgumentError) as error:
        pytest.fail(f"{command}: {error}")


@pytest.mark.parametrize("command", bundle_runs(), ids=str)
def test_bundle_has_the_files_and_keys(command: Command):
    options = dict(_options(command.words[command.words.index("run") + 1 :]))
    given = options.pop("config_file")
    files = ast.literal_eval(given) if given.startswith("[") else [given]
    if not any((ROOT / file).is_file() for file in files):  # from inside a bundle
        files = [f"bundles/sam_finetune/{file}" for file in files]
    missing = [file for file in files if not (ROOT / file).is_file()]
    assert not missing
    config = ConfigParser.load_config_files([str(ROOT / file) for file in files])
    parser = ConfigParser(config)
    unknown = [key for key in options if key.replace("#", "::") not in parser]
    assert not unknown


@pytest.mark.parametrize("command", of("python", "bash", "torchrun"), ids=str)
def test_script_or_module_is_there(command: Command):
    words = list(command.words[1:])
    if "-m" in words:
        module = words[words.index("-m") + 1]
        if module == "venv":
            return
        assert util.find_spec(module) is not None
    else:
        assert (ROOT / words[0]).is_file()


def test_no_other_program_is_shown():
    known = {"samtune", "python", "bash", "torchrun"} | FOREIGN
    assert {command.words[0] for command in COMMANDS} <= known


def _options(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """``--key value`` pairs; the first plain word is the run's id."""
    found = []
    position = 0
    while position < len(words):
        if words[position].startswith("--"):
            found.append((words[position].removeprefix("--"), words[position + 1]))
            position += 1
        position += 1
    return found
