# SPDX-License-Identifier: Apache-2.0
"""The one tree of errors. Each class carries the exit status of the command line and a next step for the person.

It is also the one table of exit statuses: the first help, the manual pages and docs/reference/exit-codes.md are made
from `exit_statuses`.
"""

from __future__ import annotations

from dataclasses import dataclass


class ConvgpuError(Exception):
    """Base of every error that ConvGPU raises on purpose.

    Args:
        message: What happened, one sentence.
        next_step: What the person can do now; None: what usually helps with this kind of error.
    """

    exit_code = 1
    usual_next_step = "run `convgpu doctor`, which looks for what is usually amiss"

    def __init__(self, message: str, *, next_step: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    @property
    def advice(self) -> str:
        """What the person can do now."""
        return self.next_step or self.usual_next_step


class UsageError(ConvgpuError):
    """A value from a person or a label is not of the accepted form."""

    exit_code = 2
    usual_next_step = "add --help to the command: it shows the accepted forms, with examples"


class ConfigError(UsageError):
    """The configuration cannot be used; the message has a line for each thing that is wrong with it."""


class DaemonUnavailableError(ConvgpuError):
    """Nobody answers on the control socket."""

    exit_code = 3
    usual_next_step = "start the daemon with `sudo convgpu daemon`"


class UnknownContainerError(ConvgpuError):
    """No container matches the given name or id prefix, or more than one does."""

    exit_code = 4
    usual_next_step = "`convgpu ps` lists the containers that are known"


class QuotaRefusedError(ConvgpuError):
    """A limit or guarantee cannot be given: larger than the device, or no longer free of deadlock."""

    exit_code = 5
    usual_next_step = "choose a smaller size; `convgpu ps` shows who holds what, `convgpu queue` who waits"


class EnvironmentMissingError(ConvgpuError):
    """Something that the machine must have is not there: bcc, kernel headers, Docker, NVML, FUSE."""

    exit_code = 6
    usual_next_step = "run `sudo convgpu doctor`: it names what is missing, and the fix"


class AuditError(ConvgpuError):
    """An audit log does not verify, or cannot be read or written."""

    exit_code = 7
    usual_next_step = "run `convgpu audit verify` on the file: it names the line"


class ProtocolError(ConvgpuError):
    """The other side of a socket sent something that this version does not understand."""

    exit_code = 8
    usual_next_step = "use the same version of ConvGPU for both: restart the daemon, or install again"


INTERRUPTED_EXIT_CODE = 130
"""128 + SIGINT, as a shell reports a program that Ctrl-C ended."""


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """One exit status of the command line.

    Attributes:
        code: The number.
        meaning: What it says, one sentence.
        next_step: What usually helps; None: nothing is amiss.
    """

    code: int
    meaning: str
    next_step: str | None


def exit_statuses() -> tuple[ExitStatus, ...]:
    """Return every exit status of ConvGPU's own; those of errors come from their classes."""
    found = [
        ExitStatus(0, "Done.", None),
        ExitStatus(
            ConvgpuError.exit_code,
            "A check failed, or something unexpected happened.",
            ConvgpuError.usual_next_step,
        ),
        ExitStatus(INTERRUPTED_EXIT_CODE, "Interrupted (Ctrl-C).", None),
    ]
    found += [
        ExitStatus(kind.exit_code, (kind.__doc__ or kind.__name__).partition("\n")[0], kind.usual_next_step)
        for kind in ConvgpuError.__subclasses__()
    ]
    return tuple(sorted(found, key=lambda status: status.code))
