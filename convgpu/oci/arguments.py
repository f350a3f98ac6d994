# SPDX-License-Identifier: Apache-2.0
"""The arguments of `docker run`: which are options, which belong to options, and which names the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# From `docker run --help` of Docker 20.10 to 29, and the aliases that help does not list (net, net-alias, dns-opt).
_VALUE_OPTIONS: Final = frozenset(
    """
    add-host annotation attach blkio-weight blkio-weight-device cap-add cap-drop cgroup-parent cgroupns cidfile
    cpu-count cpu-percent cpu-period cpu-quota cpu-rt-period cpu-rt-runtime cpu-shares cpus cpuset-cpus cpuset-mems
    detach-keys device device-cgroup-rule device-read-bps device-read-iops device-write-bps device-write-iops dns
    dns-opt dns-option dns-search domainname entrypoint env env-file expose gpus group-add health-cmd health-interval
    health-retries health-start-interval health-start-period health-timeout hostname io-maxbandwidth io-maxiops ip ip6
    ipc isolation kernel-memory label label-file link link-local-ip log-driver log-opt mac-address memory
    memory-reservation memory-swap memory-swappiness mount name net net-alias network network-alias oom-score-adj pid
    pids-limit platform publish pull restart runtime security-opt shm-size stop-signal stop-timeout storage-opt sysctl
    tmpfs ulimit user userns uts volume volume-driver volumes-from workdir
    """.split()  # noqa: SIM905 -- a list of words reads best as words
)
_SWITCHES: Final = frozenset(
    """
    detach disable-content-trust help init interactive no-healthcheck oom-kill-disable privileged publish-all quiet
    read-only rm sig-proxy tty use-api-socket
    """.split()  # noqa: SIM905 -- a list of words reads best as words
)
_FALSE: Final = ("0", "f", "false")
"""What Go's strconv.ParseBool, with which Docker reads a switch's value, takes for false; in any case."""
_LETTERS: Final = {
    "a": "attach",
    "c": "cpu-shares",
    "d": "detach",
    "e": "env",
    "h": "hostname",
    "i": "interactive",
    "l": "label",
    "m": "memory",
    "P": "publish-all",
    "p": "publish",
    "q": "quiet",
    "t": "tty",
    "u": "user",
    "v": "volume",
    "w": "workdir",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunArguments:
    """What was understood of the arguments of `docker run`.

    Attributes:
        options: Long names and values in the order given; a switch without a value has the value `true`.
        image: The image, or None where it cannot be told.
        command: What follows the image: the program in the container and its arguments.
        unknown: The option at which reading stopped, because nobody can say whether the next argument belongs to it.
    """

    options: tuple[tuple[str, str], ...]
    image: str | None
    command: tuple[str, ...] = ()
    unknown: str | None = None

    def is_on(self, switch: str) -> bool:
        """Return whether a switch was given, and not last with the value false."""
        values = self.values(switch)
        return bool(values) and values[-1].lower() not in _FALSE

    def values(self, name: str) -> tuple[str, ...]:
        """Return every value of one option, in the order given."""
        return tuple(value for option, value in self.options if option == name)


def parse_run_arguments(arguments: Sequence[str]) -> RunArguments:
    """Read arguments as Docker's command line does (spf13/pflag, options end at the first operand).

    Never raises: what Docker would refuse is left for Docker to refuse, in its own words.
    """
    options: list[tuple[str, str]] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            return RunArguments(options=tuple(options), image=rest[0] if rest else None, command=tuple(rest[1:]))
        if argument.startswith("--"):
            name, has_value, value = argument[2:].partition("=")
            if has_value or name in _SWITCHES:
                options.append((name, value if has_value else "true"))
            elif name in _VALUE_OPTIONS and rest:
                options.append((name, rest.pop(0)))
            else:
                return RunArguments(options=tuple(options), image=None, unknown=argument)
        elif argument.startswith("-") and argument != "-":
            if not _take_letters(argument[1:], rest, options):
                return RunArguments(options=tuple(options), image=None, unknown=argument)
        else:
            return RunArguments(options=tuple(options), image=argument, command=tuple(rest))
    return RunArguments(options=tuple(options), image=None)


def _take_letters(letters: str, rest: list[str], options: list[tuple[str, str]]) -> bool:
    """Read one group of short options, such as `it`, `itv/data:/data`, `e=A=1`; False where one is unknown."""
    while letters:
        name = _LETTERS.get(letters[0])
        letters = letters[1:]
        if name is None:
            return False
        if letters.startswith("="):
            options.append((name, letters[1:]))
            return True
        if name in _SWITCHES:
            options.append((name, "true"))
        elif letters:
            options.append((name, letters))
            return True
        elif rest:
            options.append((name, rest.pop(0)))
            return True
        else:
            return False
    return True
