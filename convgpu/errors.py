# SPDX-License-Identifier: Apache-2.0
"""The one tree of errors. Each class carries the exit status of the command line and a next step for the person."""

from __future__ import annotations


class ConvgpuError(Exception):
    """Base of every error that ConvGPU raises on purpose.

    Args:
        message: What happened, one sentence.
        next_step: What the person can do now; None where the message already says it.
    """

    exit_code = 1

    def __init__(self, message: str, *, next_step: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step


class UsageError(ConvgpuError):
    """A value from a person or a label is not of the accepted form."""

    exit_code = 2


class ConfigError(UsageError):
    """The configuration cannot be used; the message has a line for each thing that is wrong with it."""


class DaemonUnavailableError(ConvgpuError):
    """Nobody answers on the control socket."""

    exit_code = 3


class UnknownContainerError(ConvgpuError):
    """No container matches the given name or id prefix, or more than one does."""

    exit_code = 4


class QuotaRefusedError(ConvgpuError):
    """A limit or guarantee cannot be given: larger than the device, or no longer free of deadlock."""

    exit_code = 5


class EnvironmentMissingError(ConvgpuError):
    """Something that the machine must have is not there: bcc, kernel headers, Docker, NVML, FUSE."""

    exit_code = 6


class AuditError(ConvgpuError):
    """An audit log does not verify, or cannot be read or written."""

    exit_code = 7


class ProtocolError(ConvgpuError):
    """The other side of a socket sent something that this version does not understand."""

    exit_code = 8
