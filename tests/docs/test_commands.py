# SPDX-License-Identifier: Apache-2.0
"""Every `convgpu ...` that a page names is a command that exists, with options that exist and values they take."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pages
import pytest

from convgpu.cli.main import main

PAGES = [page for page in pages.pages() if page.name != "CHANGELOG.md"]  # it tells of commands as they were
SHELL = {"sh", "bash", "console", "shell"}
_SUBSTITUTION = re.compile(r"\$\((?P<command>(?:sudo )?convgpu [^()]*)\)")
_START = re.compile(r"^(?:\$ )?(?:sudo (?:-\w+ )*)?(?:\w+=\S+ )*(?:docker )?convgpu(?= |$)")
_PLACEHOLDER = re.compile(r".*\.\.\.|[A-Z][A-Z0-9_:=.-]*|\.\.\.|\$\w+|\$\{\w+\}|<[^>]*>")
_STOP = {"|", ";", "&&", "||", "&", ">", ">>", "<", "2>", "2>&1", ")"}


def command_lines(text: str) -> list[str]:
    """Return the command lines of ConvGPU in a shell's text: also those in pipes and in $(...)."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        found += [match["command"] for match in _SUBSTITUTION.finditer(line)]
        rest = _SUBSTITUTION.sub("SUBSTITUTED", line)
        found += [part.strip() for part in re.split(r"\|\||&&|[|;]", rest) if _START.match(part.strip())]
    return found


def words_of(line: str) -> list[str]:
    """Return a command line's words after `convgpu`, up to what is the shell's."""
    lexer = shlex.shlex(line[_START.match(line).end() :], posix=True, punctuation_chars="|&;<>")  # type: ignore[union-attr]
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words: list[str] = []
    for word in lexer:
        if word in _STOP:
            break
        words.append(word)
    return words


def complaint(words: list[str], *, whole: bool) -> str | None:
    """Return what is wrong with a command line; None: nothing.

    Args:
        whole: It is one to be typed as it stands, so what is required must be there; else it is named in a sentence.
    """
    command: click.Command = main
    context = main.make_context("convgpu", [], resilient_parsing=True)
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        if not whole and "|" in name:  # `limit set|get`
            unknown = [each for each in name.split("|") if command.get_command(context, each) is None]
            return f"no such command: {unknown}" if unknown else None
        found = command.get_command(context, name)
        if found is None:
            return f"no such command: {name}"
        command, context = found, found.make_context(name, [], parent=context, resilient_parsing=True)
    if not whole:
        rest = [word for word in rest if word != "..." and not word.startswith("[")]
    return _complaint_of_arguments(command, rest, whole=whole)


def _complaint_of_arguments(command: click.Command, arguments: list[str], *, whole: bool) -> str | None:
    context = click.Context(command)
    if isinstance(command, click.Group):
        context.allow_interspersed_args = False
    if not whole and arguments and arguments[-1].startswith("--") and "=" not in arguments[-1]:
        option = next((each for each in command.get_params(context) if arguments[-1] in each.opts), None)
        if isinstance(option, click.Option) and not option.is_flag:
            arguments = arguments[:-1]  # `--limit`, named without a value
    try:
        values, _, _ = command.make_parser(context).parse_args(list(arguments))
    except click.UsageError as error:
        return error.message
    if {"-h", "--help", "--version"} & set(arguments):
        return None
    for param in command.get_params(context):
        value = values.get(param.name)
        if value is None or "UNSET" in repr(value):
            if whole and param.required:
                return f"{param.name} is required"
            continue
        if isinstance(param.type, click.Path | click.File) or _is_placeholder(value):
            continue
        try:
            param.type_cast_value(context, value)
        except click.UsageError as error:
            return f"{param.name}: {error.message}"
    return None


def _is_placeholder(value: object) -> bool:
    words = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(word, str) and _PLACEHOLDER.fullmatch(word) for word in words)


def complaints(page: pages.Page) -> list[str]:
    found = []
    for block in page.blocks:
        if block.language in SHELL:
            for line in command_lines(block.text):
                wrong = complaint(words_of(line), whole=True)
                found += [f"line {block.line} ff.: {line}: {wrong}"] if wrong else []
    for code in page.codes():
        if _START.match(code):
            wrong = complaint(_START.sub("", code).replace("<docker run arguments>", "ARGUMENTS").split(), whole=False)
            found += [f"`{code}`: {wrong}"] if wrong else []
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_is_one(page: pages.Page) -> None:
    assert complaints(page) == []


def test_the_pages_name_commands() -> None:
    lines = [
        line for page in PAGES for block in page.blocks if block.language in SHELL for line in command_lines(block.text)
    ]
    assert len(lines) > 50
    assert {words_of(line)[0] for line in lines} >= {"run", "ps", "queue", "limit", "sim", "audit", "daemon", "doctor"}


def test_every_verb_is_in_the_readme_or_the_documentation() -> None:
    text = "".join(page.path.read_text() for page in PAGES)
    assert [verb for verb in main.list_commands(click.Context(main)) if f"convgpu {verb}" not in text] == []


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("convgpu stop alpha", "no such command: stop"),
        ("convgpu limit raise alpha", "no such command: raise"),
        ("sudo convgpu ps --watch", "No such option '--watch'."),
        ("convgpu ps --format yaml", "'yaml' is not one of"),
        ("convgpu run --guarantee 1GiB -- image", "is required"),
        ("convgpu run --limit lots -- image", "is not a size"),
        ("convgpu limit set alpha", "is required"),
        ("docker run $(convgpu sim args) image", "no such command: args"),
        ("convgpu ps | convgpu tee", "no such command: tee"),
    ],
)
def test_a_wrong_command_line_would_be_found(tmp_path: Path, line: str, what: str) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"```sh\n{line}\n```\n")
    (found,) = complaints(pages.read(path))
    assert what in found


@pytest.mark.parametrize("code", ["convgpu quit", "convgpu ps --jsno", "convgpu limit set|raise"])
def test_a_wrong_command_in_a_sentence_would_be_found(tmp_path: Path, code: str) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"Say `{code}` and\n`convgpu run --limit`.\n")
    assert len(complaints(pages.read(path))) == 1
