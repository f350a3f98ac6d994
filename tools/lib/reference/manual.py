# SPDX-License-Identifier: Apache-2.0
"""The manual pages, one a command: what `--help` says, from the same source, as man(7) wants it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from convgpu.errors import exit_statuses
from convgpu.paths import CONFIG_VARIABLE, DEFAULT_CONFIG_FILE
from reference.commands import all_commands

_SECTION = 1
_FILES = (
    (str(DEFAULT_CONFIG_FILE), f"The daemon's settings; {CONFIG_VARIABLE} names another file."),
    ("/run/convgpu/control.sock", "Where the daemon is asked; CONVGPU_RUN_DIR names another folder."),
    ("/var/log/convgpu/audit.jsonl", "The audit log."),
)


def pages() -> dict[str, str]:
    """Return every page by its file's name."""
    commands = list(all_commands())
    return {
        f"{'-'.join(('convgpu', *words))}.{_SECTION}": "\n".join(_page(words, command, commands)) + "\n"
        for words, command in commands
    }


def _page(
    words: tuple[str, ...], command: click.Command, commands: list[tuple[tuple[str, ...], click.Command]]
) -> Iterator[str]:
    name = "-".join(("convgpu", *words))
    context = _context(words, command)
    yield '.\\" SPDX-License-Identifier: Apache-2.0'
    yield '.\\" Made from the help by tools/reference.py; change that.'
    yield f'.TH "{name.upper()}" "{_SECTION}" "" "ConvGPU" "ConvGPU"'
    yield ".SH NAME"
    yield f"{_escaped(name)} \\- {_escaped(_first_sentence(command))}"
    yield ".SH SYNOPSIS"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f".B convgpu {' '.join(words)}".rstrip()
    yield _escaped(usage)
    yield ".SH DESCRIPTION"
    yield from _paragraphs(inspect.cleandoc(command.help or ""))
    yield from _options(command, context)
    children = [(path, child) for path, child in commands if path[:-1] == words and path != words]
    if children:
        yield ".SH COMMANDS"
        for path, child in children:
            yield ".TP"
            yield f".BR {_escaped('-'.join(('convgpu', *path)))} ({_SECTION})"
            yield _escaped(_first_sentence(child))
    yield from _examples(command)
    if not words:
        yield ".SH EXIT STATUS"
        for status in exit_statuses():
            yield ".TP"
            yield f".B {status.code}"
            yield _escaped(status.meaning)
            if status.next_step:
                yield ".br"
                yield _escaped(f"Next: {status.next_step}.")
        yield ".SH FILES"
        for path, about in _FILES:
            yield ".TP"
            yield f".I {_escaped(path)}"
            yield _escaped(about)
    yield ".SH SEE ALSO"
    yield _see_also(words, [path for path, _ in children])


def _context(words: tuple[str, ...], command: click.Command) -> click.Context:
    context = click.Context(click.Command("convgpu"), info_name="convgpu", help_option_names=["-h", "--help"])
    for word in words[:-1]:
        context = click.Context(click.Command(word), info_name=word, parent=context)
    if not words:
        return click.Context(command, info_name="convgpu", help_option_names=["-h", "--help"])
    return click.Context(command, info_name=words[-1], parent=context)


def _first_sentence(command: click.Command) -> str:
    text = command.short_help or inspect.cleandoc(command.help or "").partition("\n\n")[0]
    return re.split(r"(?<=[.])\s", " ".join(text.split()))[0].rstrip(".")


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    """Write the options as the help has them: the record of each is click's own."""
    options = [each for each in command.get_params(context) if isinstance(each, click.Option)]
    records = [record for each in options if (record := each.get_help_record(context))]
    if not records:
        return
    yield ".SH OPTIONS"
    for names, about in records:
        yield ".TP"
        yield f".B {_escaped(names)}"
        yield _escaped(" ".join(about.split())) or "\\&"


def _examples(command: click.Command) -> Iterator[str]:
    """Write the epilog's commands, a line each, as they are typed."""
    lines = [line.strip() for line in (command.epilog or "").partition("Example")[2].splitlines()[1:]]
    if lines:
        yield ".SH EXAMPLES"
        yield ".nf"
        yield from (_escaped(line) for line in lines if line)
        yield ".fi"


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text)):
        if number:
            yield ".PP"
        verbatim = paragraph.startswith("\b")
        if verbatim:
            yield ".nf"
            yield from (_escaped(line) for line in paragraph.lstrip("\b\n").splitlines())
            yield ".fi"
        else:
            yield _escaped(" ".join(paragraph.split()))


def _see_also(words: tuple[str, ...], children: list[tuple[str, ...]]) -> str:
    others = children or [words[:-1], ()]
    names = dict.fromkeys("-".join(("convgpu", *path)) for path in others if path != words)
    return ", ".join(f"\\fB{_escaped(name)}\\fR({_SECTION})" for name in names) or "docker(1)"


def _escaped(text: str) -> str:
    """Return a text that troff reads as it stands."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text
