# SPDX-License-Identifier: Apache-2.0
"""The quick way in: `convgpu run` as it is mostly written, without loading the command line.

A start should cost next to nothing more with ConvGPU than without. To load click, msgspec and the checks takes 70 ms;
to ask a daemon that has them loaded takes 5. So this file reads the plain forms of `convgpu run`, and leaves everything
else to the whole command line: what it does not know, what is wrong, and every answer but a command. Nothing is said
from here.

It imports nothing of the package and little of Python; not even `typing`.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LABEL_OF_OPTION = {
    "--limit": "convgpu.limit",
    "--guarantee": "convgpu.guarantee",
    "--wait": "convgpu.wait",
    "--priority": "convgpu.priority",
    "--group": "convgpu.group",
}
"""The options whose text goes to the daemon as it is: it reads labels with the same functions as the command line."""
_RUN_DIR_OPTION = "--run-dir"
_RUN_DIR_VARIABLE = "CONVGPU_RUN_DIR"
_CONFIG_VARIABLE = "CONVGPU_CONFIG"
_CONFIG_FILE = "/etc/convgpu/config.toml"
_RUN_DIR = "/run/convgpu"
_CONTROL_SOCKET = "control.sock"
_LEFT_OUT = ("--label-file", "--help")
"""Arguments of Docker that the command line must see first: it reads the files here, where the person is."""
_ANSWER_TIMEOUT_S = 30.0


def main(prog_name: str = "convgpu") -> None:
    """Be `convgpu`, or what a person calls it by."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["run"]:
        asked = read(arguments[1:], os.environ)
        command = ask(*asked) if asked is not None else None
        if command is not None:
            _become(command)
    from convgpu.cli.main import main as command_line

    command_line(prog_name=prog_name)


def _become(command: list[str]) -> None:
    """Replace this process by Docker; a Docker that does not start is for the command line to report."""
    try:
        os.execvp(command[0], command)  # noqa: S606 -- no shell is wanted
    except OSError:
        return


def read(arguments: list[str], environment: Any) -> tuple[str, dict[str, str], list[str]] | None:
    """Read the arguments of `convgpu run`.

    Returns:
        The run folder, what is asked as labels, and the arguments of Docker; None: not in the plain form.
    """
    labels = {}
    run_dir = environment.get(_RUN_DIR_VARIABLE)
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            break
        option, has_value, value = word.partition("=")
        if not has_value:
            if not rest:
                return None
            value = rest.pop(0)
        if option in LABEL_OF_OPTION:
            labels[LABEL_OF_OPTION[option]] = value
        elif option == _RUN_DIR_OPTION:
            run_dir = value
        else:
            return None
    if not rest or LABEL_OF_OPTION["--limit"] not in labels or any(word.startswith(_LEFT_OUT) for word in rest):
        return None
    run_dir = run_dir or _configured_run_dir(environment)
    return None if run_dir is None else (run_dir, labels, rest)


def _configured_run_dir(environment: Any) -> str | None:
    """Return the default, or None where a configuration file may name another one."""
    try:
        with open(environment.get(_CONFIG_VARIABLE) or _CONFIG_FILE, "rb") as file:  # noqa: PTH123 -- pathlib is slow to load
            return None if b"run_dir" in file.read() else _RUN_DIR
    except OSError:
        return _RUN_DIR


def ask(run_dir: str, labels: dict[str, str], docker_arguments: list[str]) -> list[str] | None:
    """Ask the daemon for Docker's command; None where it answers anything else, or not at all."""
    import json
    import socket

    arguments = {"labels": labels, "docker_arguments": docker_arguments}
    request = json.dumps({"id": 1, "op": "prepare_run", "args": arguments})
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_ANSWER_TIMEOUT_S)
            connection.connect(f"{run_dir}/{_CONTROL_SOCKET}")
            connection.sendall(request.encode() + b"\n")
            received = b""
            while not received.endswith(b"\n"):
                part = connection.recv(1 << 16)
                if not part:
                    return None
                received += part
        answer = json.loads(received).get("ok") or {}
    except (OSError, ValueError):
        return None
    if answer.get("warning") or answer.get("pull"):
        return None
    return answer.get("command") or None


if __name__ == "__main__":
    main()
