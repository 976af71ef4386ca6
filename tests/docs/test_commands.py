"""Every command that README and docs show is one that the programs take: options, keys, files."""

import argparse
import ast
import re
from importlib import import_module, util
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from samtune.cli import VERBS, _build_parser
from tests.docs.commands import Command, shown_commands

ROOT = Path(__file__).parents[2]
COMMANDS = shown_commands(ROOT)
# a page that uses it says so: C=bundles/sam_finetune/configs
CONFIGS = "bundles/sam_finetune/configs"
INLINE = re.compile(r"`samtune ([a-z]+)( [^`]*)?`")


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
    given = options.pop("config_file").replace("$C/", f"{CONFIGS}/")
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


def inline_uses() -> list[tuple[str, str, list[str]]]:
    """Page, verb and options of each ``samtune ...`` within a text."""
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [
        (path.name, verb, re.findall(r"(?<=\s)--[a-z][a-z-]*", rest))
        for path in pages
        for verb, rest in INLINE.findall(path.read_text(encoding="utf-8"))
    ]


def test_options_within_the_text_are_those_of_the_verb():
    uses = inline_uses()
    assert len(uses) > 100
    options = {}
    for name, verb in VERBS.items():
        _, subparsers = _build_parser()
        import_module(verb.module).add_arguments(subparsers[name])
        options[name] = " ".join(_help_texts(subparsers[name]))
    wrong = [
        (page, verb, option)
        for page, verb, given in uses
        for option in given or [""]
        if verb not in VERBS or not re.search(rf"{option}(?![a-z-])", options[verb])
    ]
    assert wrong == []


def test_no_command_stands_outside_of_fences():
    """Indented ones would not be found by the tests here."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        outside = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
        assert not re.findall(r"^ {4,}(?:samtune|python|torchrun) .*", outside, flags=re.M), path


def _help_texts(parser: argparse.ArgumentParser) -> list[str]:
    """Of a verb and its own verbs, as ``samtune weights merge``."""
    found = [parser.format_help()]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [text for one in action.choices.values() for text in _help_texts(one)]
    return found


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
