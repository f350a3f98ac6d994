# SPDX-License-Identifier: Apache-2.0
"""The boundary: ioctls of the resource manager in all their forms, made by hand."""

from __future__ import annotations

import random
from typing import Any

import pytest
from fake_daemon import FakeDaemon
from wrapper_process import (
    API_MEM_ALLOC,
    CLIENT,
    CONTEXT_BYTES,
    DEVICE,
    FORCE,
    MEMORY,
    MIB,
    OUT_OF_MEMORY,
    VIRTUAL,
    Build,
    Program,
    raw_alloc,
    raw_tree,
    settled,
)


@pytest.mark.parametrize("form", ["long", "short", "xfer"])
def test_every_form_of_the_command_is_charged(start: Any, daemon: FakeDaemon, form: str) -> None:
    program = start()
    client, device = raw_tree(program, form)
    answer = raw_alloc(program, form, client, device, MEMORY, 6 * MIB)
    assert answer[:2] == ["0", "0"]
    assert answer[4] == "12345"  # errno is the program's
    assert daemon.account().used == 6 * MIB
    daemon.limit_bytes = 8 * MIB
    assert raw_alloc(program, form, client, device, MEMORY, 4 * MIB)[:2] == ["0", "0x51"]
    assert daemon.account().refusals == 1
    assert program.do("raw", "free", client, answer[2]) == ["0", "0", "12345"]
    assert daemon.account().used == 0
    assert daemon.account().frees == 1
    assert settled(daemon)


ALLOC_SIZE, FREE, TILED_PITCH_HEIGHT, SIZE_RANGE, HW_FREE = 2, 3, 6, 14, 20
"""Functions of the older command."""
ON_THE_HOST, ANYWHERE = f"{1 << 25:x}", f"{3 << 25:x}"


@pytest.mark.parametrize("free", [FREE, HW_FREE])
@pytest.mark.parametrize("function", [ALLOC_SIZE, TILED_PITCH_HEIGHT, SIZE_RANGE])
def test_the_older_command_is_charged_in_all_its_forms(
    start: Any, daemon: FakeDaemon, function: int, free: int
) -> None:
    program = start(FAKE_RM_ROUND=4 * MIB)
    client, device = raw_tree(program, "long")
    answer = program.do("raw", "heap", f"{function:x}", client, device, 6 * MIB, 0)
    assert (answer[:2], answer[3:]) == (["0", "0"], [str(8 * MIB), "12345"])
    assert daemon.account().used == 8 * MIB
    daemon.limit_bytes = 10 * MIB
    assert program.do("raw", "heap", f"{function:x}", client, device, 4 * MIB, 0)[:2] == ["0", "0x51"]
    assert program.do("raw", "heap", f"{function:x}", client, device, 2 * MIB, ON_THE_HOST)[:2] == ["0", "0"]
    assert program.do("raw", "heap", f"{function:x}", client, device, 2 * MIB, ANYWHERE)[:2] == ["0", "0"]
    assert daemon.account().used == 8 * MIB  # where it is, not where it might have been
    assert settled(daemon)
    assert program.do("raw", "heap", f"{free:x}", client, answer[2], 0, 0)[:2] == ["0", "0"]
    assert daemon.account().used == 0
    assert daemon.page().raw.estimated == 0
    assert settled(daemon)


def test_a_form_that_nobody_knows_yet_is_estimated_and_said_once(start: Any, daemon: FakeDaemon) -> None:
    daemon.limit_bytes = 64 * MIB
    program = start(FAKE_FORM=56).ready()
    assert daemon.page().raw.estimated == 1
    pointer = program.alloc(48 * MIB)
    account = daemon.account()
    assert (account.used, account.managed) == (0, 48 * MIB)  # as the call asked for it
    assert program.do("alloc", 32 * MIB)[0] == OUT_OF_MEMORY
    assert program.do("free", pointer) == ["0"]
    assert daemon.account().managed == 0
    assert settled(daemon)
    assert program.end().count("estimated") == 1


def test_what_can_be_read_is_not_estimated(start: Any, daemon: FakeDaemon) -> None:
    start().ready().alloc(8 * MIB)
    assert daemon.page().raw.estimated == 0
    assert daemon.account().managed == 0


def test_an_address_range_is_no_memory(start: Any, daemon: FakeDaemon) -> None:
    program = start()
    client, device = raw_tree(program, "long")
    assert raw_alloc(program, "long", client, device, MEMORY, 6 * MIB, VIRTUAL)[:2] == ["0", "0"]
    assert raw_alloc(program, "long", client, device, 0x3E, 6 * MIB)[:2] == ["0", "0"]  # system memory
    assert daemon.messages == []


@pytest.mark.parametrize("top", ["memory", "subdevice", "device", "client"])
def test_freeing_an_object_frees_all_below_it(start: Any, daemon: FakeDaemon, top: str) -> None:
    program = start()
    client, device = raw_tree(program, "long")
    subdevice = raw_alloc(program, "long", client, device, 0x2080)[2]
    memory = raw_alloc(program, "long", client, subdevice, MEMORY, 2 * MIB)[2]
    raw_alloc(program, "long", client, subdevice, MEMORY, 4 * MIB)
    raw_alloc(program, "long", client, device, MEMORY, 8 * MIB)
    other_client, other_device = raw_tree(program, "long")
    raw_alloc(program, "long", other_client, other_device, MEMORY, 16 * MIB)
    handle = {"memory": memory, "subdevice": subdevice, "device": device, "client": client}[top]
    left = {"memory": 28, "subdevice": 24, "device": 16, "client": 16}[top]
    assert program.do("raw", "free", client, handle)[:2] == ["0", "0"]
    assert daemon.account().used == left * MIB
    assert settled(daemon)


def test_a_failed_free_changes_nothing(start: Any, daemon: FakeDaemon) -> None:
    program = start()
    client, device = raw_tree(program, "long")
    memory = raw_alloc(program, "long", client, device, MEMORY, 2 * MIB)[2]
    program.do("raw", "request", "c01046e1")  # the next free fails
    assert program.do("raw", "free", client, device)[1] == "0x1f"
    assert daemon.account().used == 2 * MIB
    assert program.do("raw", "free", client, memory)[1] == "0"
    assert daemon.account().used == 0
    raw_alloc(program, "long", client, device, MEMORY, 2 * MIB)
    assert program.do("raw", "free", client, device)[1] == "0"
    assert daemon.account().used == 0


def test_a_failed_ioctl_gives_back_and_keeps_its_errno(start: Any, daemon: FakeDaemon) -> None:
    program = start()
    client, _ = raw_tree(program, "long")
    answer = raw_alloc(program, "long", client, "dead", MEMORY, 2 * MIB)
    assert (answer[0], answer[4]) == ("-1", "22")
    assert daemon.account().used == 0
    assert settled(daemon)


def test_the_driver_s_size_counts_not_the_one_asked_for(start: Any, daemon: FakeDaemon) -> None:
    program = start(FAKE_RM_ROUND=8 * MIB)
    client, device = raw_tree(program, "long")
    answer = raw_alloc(program, "long", client, device, MEMORY, 5 * MIB)
    assert answer[3] == str(8 * MIB)
    assert daemon.account().used == 8 * MIB
    assert [message.flags & FORCE for message in daemon.asked()] == [0, FORCE]
    program.do("raw", "free", client, answer[2])
    assert daemon.account().used == 0
    assert settled(daemon)


@pytest.mark.parametrize("request_number", [0x5401, 0xC0104600, 0xC030462C, 0xC018462B, 0x4600])
def test_unknown_requests_pass_with_their_errno(
    build: Build, daemon: FakeDaemon, start: Any, request_number: int
) -> None:
    native = Program(build, None)
    assert start().do("raw", "request", f"{request_number:x}") == native.do("raw", "request", f"{request_number:x}")
    assert daemon.messages == []
    native.end()


def test_devices_are_told_apart_by_pci_address_and_uuid(start: Any, daemon: FakeDaemon) -> None:
    daemon.gpus = 2
    program = start(FAKE_GPUS=2).ready(device=1)
    program.alloc(8 * MIB)
    assert daemon.account(device=1).used == CONTEXT_BYTES + 8 * MIB
    assert daemon.account(device=0).used == 0
    assert program.do("retain", 0) == ["0"]
    program.alloc(16 * MIB)
    assert daemon.account(device=0).used == CONTEXT_BYTES + 16 * MIB
    assert {message.device for message in daemon.asked() if message.api == API_MEM_ALLOC} == {0, 1}


@pytest.mark.parametrize(("instance", "slot"), [(0, 1), (1, 0)])
def test_an_instance_is_found_through_what_the_driver_asked(
    start: Any, daemon: FakeDaemon, instance: int, slot: int
) -> None:
    daemon.gpus = 2
    program = start(FAKE_GPUS=2)
    program.do("resolve", "dlsym")
    program.do("init", 0)
    client = raw_alloc(program, "long", "0", "0", CLIENT)[2]
    device = raw_alloc(program, "long", client, client, DEVICE, flags=instance)[2]
    raw_alloc(program, "long", client, device, MEMORY, 2 * MIB)
    assert daemon.account(device=slot).used == 2 * MIB
    assert daemon.account(device=1 - slot).used == 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_trees_add_up(start: Any, daemon: FakeDaemon, seed: int) -> None:
    chance = random.Random(seed)
    program = start()
    client, device = raw_tree(program, "long")
    parent_of: dict[str, str] = {device: client}
    size_of = {raw_alloc(program, "long", client, device, MEMORY, 4096)[2]: 4096}
    parent_of.update(dict.fromkeys(size_of, device))
    for _ in range(300):
        if chance.random() < 0.75 or len(parent_of) == 1:
            parent = chance.choice(list(parent_of))
            size_bytes = chance.randrange(1, 9) * 4096
            is_memory = chance.random() < 0.5
            class_id = MEMORY if is_memory else 0x2080
            handle = raw_alloc(program, chance.choice(["long", "short"]), client, parent, class_id, size_bytes)[2]
            parent_of[handle] = parent
            if is_memory:
                size_of[handle] = size_bytes
        else:
            gone = {chance.choice([handle for handle in parent_of if handle != device])}
            program.do("raw", "free", client, *gone)
            while below := {handle for handle, parent in parent_of.items() if parent in gone} - gone:
                gone |= below
            for handle in gone:
                del parent_of[handle]
                size_of.pop(handle, None)
        assert daemon.account().used == sum(size_of.values())
    assert settled(daemon)
