# SPDX-License-Identifier: Apache-2.0
"""`convgpu-runtime`: an OCI runtime that adds ConvGPU's mounts to a container and leaves all else to the next runtime.

An engine calls its runtime several times for a container: create, start, kill, delete. Only `create` and `run` are of
interest here, and `checkpoint` and `restore`, which a guarded container is refused; everything goes to the next runtime
unchanged, by exec, so that nothing stands between. It starts at
each of these calls: whatever it imports, every container pays for.

`convgpu install` writes the program: it calls `main` in an interpreter that loads nothing else.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

PUBLISHED = "runtime"
"""In the state folder: what the daemon tells the shim, a `name=value` a line; see `convgpu.oci.published`."""
HOOK = "hook"
"""Called with this alone it is no runtime, but the hook of the CDI device (`convgpu.oci.cdi`)."""
_WITH_VALUE = ("--cgroup-manager", "--criu", "--log", "--log-format", "--log-level", "--root", "--rootless")
"""The global options of runc 1.0 to 1.3 and crun 1.8 that have a value; the others are switches."""
_CREATING = ("create", "run")
_CHECKPOINT = "checkpoint"
_RESTORE = "restore"


def main(state_dir: str, arguments: list[str]) -> NoReturn:
    """Be the runtime.

    Args:
        state_dir: The daemon's state folder.
        arguments: Those of an OCI runtime.
    """
    try:
        settings = read_settings(state_dir)
        if arguments == [HOOK]:
            from convgpu.oci.bundle import check

            check(sys.stdin.read(), settings)
            sys.exit(0)
        command = arguments[place:] if (place := command_place(arguments)) is not None else []
        if command[:1] and command[0] in _CREATING:
            from convgpu.oci.bundle import prepare

            prepare(command[-1], _bundle_of(command), settings)
        elif command[:1] == [_CHECKPOINT]:
            from convgpu.oci.checkpoint import refuse_checkpoint

            refuse_checkpoint(settings["next"], arguments[:place], command[-1])
        elif command[:1] == [_RESTORE]:
            from convgpu.oci.checkpoint import refuse_restore

            refuse_restore(command[-1], _bundle_of(command), settings)
        become(settings["next"], arguments)
    except Exception as error:  # noqa: BLE001 -- whatever it is, the engine shows what the log says, and not a traceback
        fail(arguments, str(error))


def _bundle_of(command: list[str]) -> str:
    return value_of(command, "--bundle", "-b") or os.getcwd()  # noqa: PTH109 -- pathlib is slow to load


def become(next_runtime: str, arguments: list[str]) -> NoReturn:
    """Leave the work to the next runtime.

    Raises:
        FileNotFoundError: There is none of that name.
    """
    try:
        os.execvp(next_runtime, [next_runtime, *arguments])  # noqa: S606 -- no shell is wanted
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no runtime {next_runtime} (runtime_next)") from error


def read_settings(state_dir: str) -> dict[str, str]:
    """Read what the daemon published.

    Raises:
        FileNotFoundError: No daemon and no `convgpu install` has written it yet.
    """
    with open(f"{state_dir}/{PUBLISHED}") as file:  # noqa: PTH123 -- pathlib is slow to load
        pairs = (line.rstrip("\n").partition("=") for line in file)
        return {name: value for name, _, value in pairs}


def command_place(arguments: list[str]) -> int | None:
    """Return where the runtime's command stands among its arguments, after its global options."""
    skip = False
    for place, word in enumerate(arguments):
        if skip:
            skip = False
        elif word.startswith("-"):
            skip = word in _WITH_VALUE
        else:
            return place
    return None


def value_of(arguments: list[str], *names: str) -> str | None:
    """Return the value of an option, written `--name value` or `--name=value`."""
    for place, word in enumerate(arguments):
        name, has_value, value = word.partition("=")
        if name in names:
            return value if has_value else next(iter(arguments[place + 1 :]), None)
    return None


def fail(arguments: list[str], message: str) -> NoReturn:
    """End, and say why: in the log that the engine named, from which it takes the message for the person, and aloud."""
    text = f"convgpu: {message}"
    log = value_of(arguments, "--log")
    if log is not None:
        import json
        import time

        entry = {"level": "error", "msg": text, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        with open(log, "a") as file:  # noqa: PTH123
            file.write(json.dumps(entry) + "\n")
    print(text, file=sys.stderr)  # noqa: T201
    sys.exit(1)
