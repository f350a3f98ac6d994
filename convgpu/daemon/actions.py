# SPDX-License-Identifier: Apache-2.0
"""What is done about a finding beside writing it down: a command, `docker pause`, `docker stop`; once for each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec

from convgpu.config.keys import LOG, NOTIFY, PAUSE
from convgpu.config.layers import InForce
from convgpu.core.identity import ContainerId
from convgpu.core.status import FindingStatus
from convgpu.core.watch import FindingKey
from convgpu.daemon.finding_log import DONE, FAILED, SKIPPED, FindingLog
from convgpu.errors import ConvgpuError
from convgpu.sources.docker import ContainerSource

NOTIFY_S: Final = 10.0
_AT_A_TIME: Final = 4
_A_MINUTE: Final = 30
_MINUTE_S: Final = 60.0
_STOPPED: Final = ("exited", "dead", "removing", "created")


class Actions:
    """Carries actions out in the background and writes down what came of them.

    An action names a container by its full id, and Docker alone acts on it: no process is signalled by number, so none
    outside the container can be hit.

    Args:
        docker: The engine that runs the container.
        in_force: Says which action, and what command.
        log: Where outcomes are written.
        spawn: Runs work in the background.
        clock: Seconds.
    """

    def __init__(
        self,
        docker: ContainerSource,
        in_force: InForce,
        log: FindingLog,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._docker = docker
        self._in_force = in_force
        self._log = log
        self._spawn = spawn
        self._clock = clock
        self._notified: deque[float] = deque()
        self._running = 0

    def begin(self, key: FindingKey, finding: FindingStatus) -> None:
        """Do what is configured about a finding; to be called once for each."""
        action = finding.action
        if action == NOTIFY:
            self._spawn(self._notify(key, self._in_force.config.notify_command, finding))
        elif action != LOG and key.container is not None:
            self._spawn(self._halt(key, key.container, action))

    async def _halt(self, key: FindingKey, container: ContainerId, action: str) -> None:
        try:
            facts = await asyncio.to_thread(self._docker.inspect, container)
            if facts is None or facts.state in _STOPPED:
                self._log.action(key, action, SKIPPED, "the container has ended")
            elif action == PAUSE and facts.state == "paused":
                self._log.action(key, action, SKIPPED, "the container is paused")
            else:
                await asyncio.to_thread(self._docker.pause if action == PAUSE else self._docker.stop, container)
                self._log.action(key, action, DONE)
        except ConvgpuError as error:
            self._log.action(key, action, FAILED, error.message)
        except Exception as error:
            self._log.action(key, action, FAILED, f"Docker does not answer: {error}")
            raise

    async def _notify(self, key: FindingKey, command: Sequence[str], finding: FindingStatus) -> None:
        if not self._may_notify():
            too_many = f"more than {_AT_A_TIME} at a time or {_A_MINUTE} a minute"
            self._log.action(key, NOTIFY, SKIPPED, too_many)
            return
        self._running += 1
        try:
            reason = await run_notification(command, msgspec.json.encode(finding))
        finally:
            self._running -= 1
        self._log.action(key, NOTIFY, DONE if reason is None else FAILED, reason)

    def _may_notify(self) -> bool:
        now_s = self._clock()
        while self._notified and now_s - self._notified[0] >= _MINUTE_S:
            self._notified.popleft()
        if self._running >= _AT_A_TIME or len(self._notified) >= _A_MINUTE:
            return False
        self._notified.append(now_s)
        return True


async def run_notification(command: Sequence[str], text: bytes, limit_s: float = NOTIFY_S) -> str | None:
    """Run a command with a finding on its stdin and in its environment, and end it when its time is over.

    Returns:
        None when it ended with status 0, else why not.
    """
    environment = {"PATH": os.environ.get("PATH", os.defpath), "CONVGPU_FINDING": text.decode()}
    nowhere = asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=nowhere,
            stderr=nowhere,
            env=environment,
            start_new_session=True,  # so that what it starts can be ended with it
        )
    except OSError as error:
        return f"{command[0]} cannot be run: {error.strerror}"
    try:
        await asyncio.wait_for(process.communicate(text + b"\n"), limit_s)
    except TimeoutError:
        if process.returncode is None:  # its number is still its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        return f"it did not end within {limit_s:.0f} s"
    return None if process.returncode == 0 else f"it ended with status {process.returncode}"
