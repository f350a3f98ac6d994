# SPDX-License-Identifier: Apache-2.0
"""The mapped file of what is set aside for whom: it is there again, whole, for the next daemon."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from convgpu.core.identity import ContainerId, GpuUuid
from convgpu.core.ledger import Carried
from convgpu.daemon.accounts import Accounts, SavedAccount
from convgpu.errors import ConvgpuError

BOOT = str(uuid.uuid4())
GPUS = [GpuUuid(f"GPU-{uuid.UUID(int=number)}") for number in (1, 2)]


def name(number: int) -> ContainerId:
    return ContainerId(f"{number:064x}")


def account(number: int) -> SavedAccount:
    return SavedAccount(number, 2 * number, 3 * number, 4 * number, 5 * number, 0)


def test_what_was_put_is_there_again(tmp_path: Path) -> None:
    first = Accounts(tmp_path / "accounts", BOOT)
    first.put(name(1), GPUS[0], account(1))
    first.put(name(1), GPUS[1], account(2))
    first.put(name(2), GPUS[0], account(3))
    first.put(name(2), GPUS[0], account(4))
    first.put(None, GPUS[1], SavedAccount(turn=9))
    first.close()
    again = Accounts(tmp_path / "accounts", BOOT)
    assert again.of(name(1)) == {GPUS[0]: account(1), GPUS[1]: account(2)}
    assert again.of(name(2)) == {GPUS[0]: account(4)}
    assert again.of(name(2))[GPUS[0]].carried() == Carried(4, 8, 12, 16)
    assert again.of(name(3)) == {}
    assert (again.turn(GPUS[0]), again.turn(GPUS[1])) == (0, 9)


def test_it_grows_and_uses_slots_again(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "accounts", BOOT)
    for number in range(1, 500):
        accounts.put(name(number), GPUS[0], account(number))
    for number in range(1, 400):
        accounts.forget(name(number))
    size_bytes = (tmp_path / "accounts").stat().st_size
    for number in range(1000, 1390):
        accounts.put(name(number), GPUS[1], account(number))
    assert (tmp_path / "accounts").stat().st_size == size_bytes
    accounts.close()
    again = Accounts(tmp_path / "accounts", BOOT)
    assert again.of(name(1)) == {}
    assert again.of(name(450)) == {GPUS[0]: account(450)}
    assert again.of(name(1389)) == {GPUS[1]: account(1389)}


def test_a_kill_loses_nothing(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from convgpu.core.identity import ContainerId, GpuUuid
from convgpu.daemon.accounts import Accounts, SavedAccount
accounts = Accounts(Path(sys.argv[1]), sys.argv[2])
accounts.put(ContainerId(sys.argv[3]), GpuUuid(sys.argv[4]), SavedAccount(7))
os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "accounts"), BOOT, name(5), GPUS[0]]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert Accounts(tmp_path / "accounts", BOOT).of(name(5)) == {GPUS[0]: SavedAccount(7)}


def test_another_boot_begins_anew(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "accounts", BOOT)
    accounts.put(name(1), GPUS[0], account(1))
    accounts.close()
    assert Accounts(tmp_path / "accounts", str(uuid.uuid4())).of(name(1)) == {}


def test_a_file_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "accounts"
    path.write_bytes(b"something else entirely" * 20)
    with pytest.raises(ConvgpuError, match="not a file of accounts") as caught:
        Accounts(path, BOOT)
    assert caught.value.next_step is not None
    assert path.read_bytes() == b"something else entirely" * 20
