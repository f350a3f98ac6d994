# SPDX-License-Identifier: Apache-2.0
"""Takes out of a bundle what is nobody's business: names, addresses, paths, the environment's values.

What is known to be a secret is replaced wherever it stands; what looks like one (a URL's host, an address, a home, an
id) is replaced too. The same word gets the same stand-in everywhere, so that a reader can still tell one container from
another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from convgpu.core.status import (
    ContainerStatus,
    FindingStatus,
    GroupStatus,
    ProcessStatus,
    Snapshot,
    WaitingStatus,
    WitnessStatus,
)

_SHORTEST: Final = 6
"""A value of the environment below this is a flag or a number, and would be found in any text."""
_PATTERNS: Final = (
    (re.compile(r"\b([a-z][a-z0-9+.-]*://)[^\s'\",)]+", re.IGNORECASE), r"\1(host)"),
    (re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), "(mail)"),
    (re.compile(r"/(?:home|Users|root)(?:/[^\s:'\",)]*)?"), "(home)"),
    (re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b(?!-)"), "(address)"),
    (re.compile(r"(?<![\w:])(?:[0-9a-f]{0,4}:){3,7}[0-9a-f]{0,4}(?![\w:])", re.IGNORECASE), "(address)"),
    (re.compile(r"\b[0-9a-f]{12,64}\b"), "(id)"),
)
_CLOSED_WORDS: Final = ("action", "api", "kind", "obstacle", "since", "source", "state")
_NO_SECRETS: Final = ("", "root", "localhost")
_PROBE: Final = re.compile(r"(?:\w+ )?[\w:.@-]+")
"""A probe's own name; what says more about one that is missing may name a program."""


class Redaction:
    """What stands for what.

    Args:
        environment: Its values are secrets.
        names: So are these: user, machine.
    """

    def __init__(self, environment: Mapping[str, str], names: Iterable[str] = ()) -> None:
        self._stand_ins: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        for variable, value in environment.items():
            for part in (value, *re.split(r"[:,;\s=]", value)):
                self._secret(part, f"({variable})")
        for name in names:
            if name not in _NO_SECRETS:
                self._stand_ins.setdefault(name, "(name)")

    def _secret(self, value: str, stand_in: str) -> None:
        if len(value) >= _SHORTEST and not value.isdigit():
            self._stand_ins.setdefault(value, stand_in)

    def of(self, kind: str, word: str | None) -> str | None:
        """Return the stand-in of a name: `container-1`, `image-2`."""
        if word is None:
            return None
        known = self._stand_ins.get(word, "")
        if known.startswith(f"{kind}-"):
            return known
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._stand_ins[word] = f"{kind}-{self._counts[kind]}"
        return self._stand_ins[word]

    def text(self, text: str) -> str:
        """Return a text without what is known to be a secret, nor what looks like one."""
        for pattern, stand_in in _PATTERNS:  # first: a name in a path would hide the path's end from them
            text = pattern.sub(stand_in, text)
        for word in sorted(self._stand_ins, key=len, reverse=True):
            text = re.sub(rf"(?<![\w-]){re.escape(word)}(?![\w-])", self._stand_ins[word], text)
        return text

    def snapshot(self, snapshot: Snapshot) -> dict[str, Any]:
        """Return a snapshot's figures: names by their stand-ins, no sentence, no path, no hash."""
        containers = [self._container(container) for container in snapshot.containers]
        return {
            "taken_at": snapshot.taken_at,
            "version": snapshot.version,
            "simulated": snapshot.simulated,
            "driver": snapshot.driver,
            "algorithm": snapshot.algorithm,
            "gpus": [
                {**figures_of(gpu), "name": gpu.name, "findings": list(map(self._finding, gpu.findings))}
                for gpu in snapshot.gpus
            ],
            "containers": containers,
            "groups": [self._group(group) for group in snapshot.groups],
            "queue": [self._waiting(waiting) for waiting in snapshot.queue],
            "witness": self._witness(snapshot.witness),
            "audit_seq": snapshot.audit_seq,
            "undecided": len(snapshot.undecided),
        }

    def _container(self, container: ContainerStatus) -> dict[str, Any]:
        return {
            "name": self.of("container", container.name),
            "image": self.of("image", container.image),
            "state": container.state,
            "guarded": container.guarded,
            "group": self.of("group", container.group),
            "findings": [self._finding(finding) for finding in container.findings],
            "devices": [
                {
                    **figures_of(device),
                    "processes": [self._process(process) for process in device.processes],
                }
                for device in container.devices
            ],
        }

    def _process(self, process: ProcessStatus) -> dict[str, Any]:
        return {**figures_of(process), "comm": self.of("process", process.comm)}

    def _finding(self, finding: FindingStatus) -> dict[str, Any]:
        return {**figures_of(finding), "pids": list(finding.pids)}

    def _waiting(self, waiting: WaitingStatus) -> dict[str, Any]:
        return {**figures_of(waiting), "container": self.of("container", waiting.container_name)}

    def _group(self, group: GroupStatus) -> dict[str, Any]:
        return {"name": self.of("group", group.name), "devices": [figures_of(device) for device in group.devices]}

    def _witness(self, witness: WitnessStatus) -> dict[str, Any]:
        known = [name for name in witness.missing if _PROBE.fullmatch(name)]
        return {
            "running": witness.running,
            "reason": None if witness.reason is None else self.text(witness.reason),
            "attached": list(witness.attached),
            "missing": known,
            "missing_of_programs": len(witness.missing) - len(known),
            "lost": dict(witness.lost),
        }


def figures_of(record: Any) -> dict[str, Any]:
    """Return a dataclass's numbers, and those of its words that are from a closed set: a new field may be a name."""
    values = {name: getattr(record, name) for name in record.__dataclass_fields__}
    return {
        name: value
        for name, value in values.items()
        if value is None or isinstance(value, (bool, int, float)) or name in _CLOSED_WORDS
    }
