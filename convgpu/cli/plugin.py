# SPDX-License-Identifier: Apache-2.0
"""`docker convgpu`: the same program, as a plugin of Docker's command line.

Docker asks a plugin for its metadata, which must come at once: it does so for every `docker --help`. Later it starts it
with all words of its own command line, its global options before the plugin's name. What these say of the engine
reaches the `docker run` that ConvGPU becomes through the environment, where Docker reads the same.

Imports little, as `convgpu.cli.quick` does, to which it leaves the work.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

NAME = "convgpu"
"""What follows `docker`; the file must be called `docker-` and this."""
METADATA = "docker-cli-plugin-metadata"
SCHEMA = "0.1.0"
"""The only form of the metadata there is (docker/cli, cli-plugins/metadata)."""
_COMPLETIONS = ("__complete", "__completeNoDesc")
_NO_FILES = ":4"
"""Cobra's ShellCompDirectiveNoFileComp: a shell must not offer file names beside what was listed."""
_VARIABLES = {"config": "DOCKER_CONFIG", "context": "DOCKER_CONTEXT", "host": "DOCKER_HOST"}
_SWITCHES = {"tls": "DOCKER_TLS", "tlsverify": "DOCKER_TLS_VERIFY"}
_IGNORED = {"debug": False, "log-level": True}
"""Options of Docker's that change nothing of a start; True: with a value."""
_LETTERS = {"c": "context", "D": "debug", "H": "host", "l": "log-level"}
_USAGE_EXIT_CODE = 2
"""That of `convgpu.errors.UsageError`, which would have to be loaded for it."""
_SOCKET = "DOCKER_CLI_PLUGIN_SOCKET"
_OF_THE_CALLER = ("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND", _SOCKET)
"""Meant for this process alone, not for the Docker that it becomes."""


def main() -> None:
    """Be `docker convgpu`."""
    words = sys.argv[1:]
    if words[:1] == [METADATA]:
        print(metadata())  # noqa: T201 -- the answer
        return
    if words[:1] and words[0] in _COMPLETIONS:
        print(completions(words[1:]))  # noqa: T201
        return
    environment, rest = read(words)
    if _SOCKET in os.environ:
        _follow(os.environ[_SOCKET])
    if "DOCKER_CONTEXT" in environment:
        os.environ.pop("DOCKER_HOST", None)  # it would win
    os.environ.update(environment)
    for name in _OF_THE_CALLER:
        os.environ.pop(name, None)
    sys.argv = [f"docker {NAME}", *rest]
    from convgpu.cli.quick import main as quick

    quick(f"docker {NAME}")


def _follow(address: str) -> None:
    """Leave a process behind that ends this one when Docker is told to end.

    Docker passes no signal on to its plugins. It closes the connection of each instead (Docker 25 on), and not where
    there is a terminal, which signals all of its processes itself. This process becomes `docker run`, which knows
    nothing of that, so another one waits for it.

    Args:
        address: Docker's socket; one that begins with `@` has its name in no folder.
    """
    import select
    import signal
    import socket

    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
        us = os.pidfd_open(os.getpid())
    except OSError:
        return  # Docker is gone, or the kernel is older than 5.3: signals are not passed on
    if os.fork():
        os.close(us)
        connection.close()
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)  # whoever reads from us must see our end, not this process's
    ended, _, _ = select.select([us, connection.fileno()], [], [])
    if us not in ended:
        signal.pidfd_send_signal(us, signal.SIGTERM)
    os._exit(0)


def metadata() -> str:
    """Return what Docker wants to know of a plugin, as JSON."""
    import json

    from convgpu import __version__

    return json.dumps(
        {
            "SchemaVersion": SCHEMA,
            "Vendor": "The ConvGPU authors",
            "Version": __version__,
            "ShortDescription": "Share the memory of a GPU: containers with limits",
        }
    )


def completions(words: list[str]) -> str:
    """Return the verbs that a shell may offer, in the form of Cobra, with which Docker's command line is made.

    Args:
        words: The command line, the word to be completed last.
    """
    offered: list[str] = []
    if words[:1] == [NAME] and len(words) == 2:
        from convgpu.cli.main import VERBS

        offered = [f"{verb}\t{about.summary}" for verb, about in VERBS.items() if verb.startswith(words[1])]
    return "\n".join([*offered, _NO_FILES])


def read(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Read Docker's global options.

    Returns:
        The environment that says the same, and what follows the plugin's name.
    """
    environment: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == NAME:
            return environment, rest
        if word.startswith("--"):
            name, has_value, value = word[2:].partition("=")
            _take(name, value if has_value else None, rest, environment)
        elif word.startswith("-") and len(word) > 1:
            _take_letters(word[1:], rest, environment)
        else:
            break
    return _refuse(f"expected `{NAME}` after Docker's own options")


def _take_letters(letters: str, rest: list[str], environment: dict[str, str]) -> None:
    """Take a group of short options, such as `D`, `DH` with the next word, or `Hunix:///run/docker.sock`."""
    while letters:
        name, letters = _LETTERS.get(letters[0], letters[0]), letters[1:]
        if name in _SWITCHES or _IGNORED.get(name) is False:
            continue
        _take(name, letters.removeprefix("=") or None, rest, environment)
        return


def _take(name: str, value: str | None, rest: list[str], environment: dict[str, str]) -> None:
    if name in _SWITCHES:
        if value not in ("false", "0"):
            environment[_SWITCHES[name]] = "1"
        return
    if _IGNORED.get(name) is False:
        return
    if name not in _VARIABLES and name not in _IGNORED:
        _refuse(f"Docker's option --{name} cannot be handed on: set DOCKER_CERT_PATH or a context instead")
    if value is None:
        value = rest.pop(0) if rest else ""
    if name in _VARIABLES:
        environment[_VARIABLES[name]] = value


def _refuse(message: str) -> NoReturn:
    print(f"convgpu: {message}", file=sys.stderr)  # noqa: T201
    sys.exit(_USAGE_EXIT_CODE)


if __name__ == "__main__":
    main()
