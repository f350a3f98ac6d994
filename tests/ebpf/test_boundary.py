# SPDX-License-Identifier: Apache-2.0
"""What the driver did, read off its ioctls: sizes as it returned them, subtrees, clients, refusals."""

from __future__ import annotations

import itertools
import struct

import pytest

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.fuse]

MIB = 1 << 20
NO_MEMORY = 0x51
SUBDEVICE = 0x2080
VIRTUAL = 0x00080000
_FIRST_NUMBERS = itertools.count(0xC1D00000, 16)


@pytest.fixture
def numbers():
    """Client numbers that no other test uses: they are global to the host."""
    first = next(_FIRST_NUMBERS)
    return range(first, first + 16)


def test_sizes_count_as_the_driver_returned_them(watcher, rm, numbers):
    child, client = rm(), numbers[0]
    child.client(client)
    child.device(client, 0x80, instance=1)
    for handle in range(97):
        child.memory(client, 0x80, 0x1000 + handle, 2 * MIB)
    for handle in range(89):
        child.free(client, 0x1000 + handle)
    balance = watcher.balance(child.pid)
    assert balance.device_instance == 1
    assert (balance.allocations, balance.frees, balance.failures) == (97, 89, 0)
    assert (balance.physical_bytes, balance.physical_peak_bytes) == (8 * 2 * MIB, 97 * 2 * MIB)
    assert (balance.driver_bytes, balance.runtime_bytes) == (0, 0)
    watcher.expect_losses()


@pytest.mark.parametrize("options", [{"form": 32}, {"transfer": True}, {"form": 32, "transfer": True}])
def test_every_form_of_the_call_is_read(watcher, rm, numbers, options):
    child, client = rm(), numbers[0]
    child.client(client, **options)
    child.device(client, 0x80, instance=0, **options)
    for handle in range(5):
        child.memory(client, 0x80, 0x1000 + handle, 3 * MIB, **options)
    child.free(client, 0x1000, transfer=options.get("transfer", False))
    balance = watcher.balance(child.pid)
    assert (balance.physical_bytes, balance.allocations, balance.frees) == (12 * MIB, 5, 1)
    watcher.expect_losses()


def test_what_the_driver_refused_is_a_failure_only(watcher, rm, numbers):
    child, client = rm(), numbers[0]
    child.client(client)
    child.device(client, 0x80, instance=0)
    child.memory(client, 0x80, 0x1000, MIB)
    for handle in range(11):
        child.memory(client, 0x80, 0x2000 + handle, 64 * MIB, status=NO_MEMORY)
    for handle in range(3):
        child.memory(client, 0x80, 0x3000 + handle, 64 * MIB, file="refuse")
    child.free(client, 0x1000, status=NO_MEMORY)
    child.free(client, 0x1000, file="refuse")
    balance = watcher.balance(child.pid)
    assert (balance.physical_bytes, balance.allocations, balance.frees, balance.failures) == (MIB, 1, 0, 14)
    assert [event.kind for event in watcher.story(child.pid)] == ["alloc"] + ["fail"] * 14


def test_address_space_and_other_objects_are_not_memory(watcher, rm, numbers):
    child, client = rm(), numbers[0]
    child.client(client)
    child.device(client, 0x80, instance=0)
    child.memory(client, 0x80, 0x1000, 512 * MIB, flags_8=VIRTUAL)
    for other in (0x3E, 0x70, 0x71, SUBDEVICE, 0x50A0):
        child.call(
            "alloc", client=client, parent=0x80, object=0x2000 + other, parameters="ff" * 128, **{"class": other}
        )
        child.free(client, 0x2000 + other)
    assert watcher.balances(child.pid) == []
    watcher.expect_losses()


def test_freeing_a_device_frees_what_hangs_below_it_and_nothing_else(watcher, rm, numbers):
    child, client = rm(), numbers[0]
    child.client(client)
    child.device(client, 0x80, instance=0)
    child.device(client, 0x81, instance=1)
    for handle in range(7):
        child.memory(client, 0x80, 0x1000 + handle, 4 * MIB)
        child.memory(client, 0x81, 0x2000 + handle, 8 * MIB)
    child.free(client, 0x1000)
    child.free(client, 0x80)
    by_device = {balance.device_instance: balance for balance in watcher.balances(child.pid)}
    assert (by_device[0].physical_bytes, by_device[0].allocations, by_device[0].frees) == (0, 7, 7)
    assert (by_device[1].physical_bytes, by_device[1].allocations, by_device[1].frees) == (56 * MIB, 7, 0)
    assert [event.size_bytes for event in watcher.story(child.pid) if event.kind == "free"] == [4 * MIB, 24 * MIB]

    # A handle of the dead subtree is used again for something that holds no memory, and freed.
    child.free(client, 0x1003)
    assert {b.device_instance: b.physical_bytes for b in watcher.balances(child.pid)} == {0: 0, 1: 56 * MIB}
    # And the device's own handle for another device.
    child.device(client, 0x80, instance=2)
    child.memory(client, 0x80, 0x1004, MIB)
    child.free(client, 0x1005)
    assert {b.device_instance: b.physical_bytes for b in watcher.balances(child.pid)} == {0: 0, 1: 56 * MIB, 2: MIB}


def test_freeing_a_client_frees_all_it_had_on_every_device(watcher, rm, numbers):
    child, client, other = rm(), numbers[0], numbers[1]
    for number in (client, other):
        child.client(number)
        for instance in range(3):
            child.device(number, 0x80 + instance, instance=instance)
            child.memory(number, 0x80 + instance, 0x1000 + instance, (instance + 1) * MIB)
    child.free(client, client)
    assert {b.device_instance: b.physical_bytes for b in watcher.balances(child.pid)} == {
        0: MIB,
        1: 2 * MIB,
        2: 3 * MIB,
    }
    assert all((b.allocations, b.frees) == (2, 1) for b in watcher.balances(child.pid))
    assert [event.size_bytes for event in watcher.story(child.pid) if event.kind == "free"] == [6 * MIB]


def test_a_client_whose_number_comes_again_starts_empty(watcher, rm, numbers):
    child, client = rm(), numbers[0]
    for _ in range(2):  # closing the file frees a client without an ioctl
        child.client(client)
        child.device(client, 0x80, instance=0)
        child.memory(client, 0x80, 0x1000, MIB)
        child.memory(client, 0x80, 0x1001, MIB)
    assert watcher.balance(child.pid).physical_bytes == 2 * MIB
    child.free(client, client)
    assert watcher.balance(child.pid).physical_bytes == 0
    watcher.expect_losses()


def test_a_device_does_not_outlive_its_client(watcher, rm, numbers):
    child, client = rm(), numbers[0]
    child.client(client)
    child.device(client, 0x80, instance=4)
    child.memory(client, 0x80, 0x1000, MIB)
    child.free(client, client)
    child.client(client)
    child.memory(client, 0x80, 0x1001, MIB)  # below a device that this client has not made
    assert {b.device_instance: b.physical_bytes for b in watcher.balances(child.pid)} == {4: 0, -1: MIB}
    watcher.expect_losses(unknown_parent=1)


def test_64_threads_on_one_client_stay_exact(watcher, rm, numbers):
    child, client = rm(), numbers[0]
    child.client(client)
    child.device(client, 0x80, instance=0)
    parameters = struct.pack("<64xQ56x", 2 * MIB).hex()
    child.call(
        "threads", threads=64, client=client, parent=0x80, first=0x10000, allocations=31, frees=29,
        parameters=parameters, **{"class": 0x40},
    )  # fmt: skip
    balance = watcher.balance(child.pid)
    assert (balance.allocations, balance.frees, balance.physical_bytes) == (64 * 31, 64 * 29, 64 * 2 * 2 * MIB)
    watcher.expect_losses()


def test_a_forked_child_works_on_its_parents_account(watcher, rm, numbers):
    parent, client = rm(), numbers[0]
    parent.client(client)
    parent.device(client, 0x80, instance=0)
    parameters = struct.pack("<64xQ56x", 5 * MIB).hex()
    alloc = {"op": "alloc", "client": client, "parent": 0x80, "class": 0x40, "parameters": parameters}
    child_pid = parent.call("fork", calls=[alloc | {"object": 1}, alloc | {"object": 2}])
    assert watcher.balance(parent.pid).physical_bytes == 10 * MIB
    assert watcher.balances(child_pid) == []


def test_late_attachment_counts_for_the_unknown_device_and_says_so(watcher, rm, numbers):
    child, client = rm(), numbers[0]  # neither client nor device was seen made
    child.memory(client, 0x80, 0x1000, MIB)
    child.memory(client, 0x80, 0x1001, MIB)
    child.free(client, 0x1000)
    child.free(client, 0x0FFF)  # allocated before
    balance = watcher.balance(child.pid)
    assert (balance.device_instance, balance.physical_bytes) == (-1, MIB)
    watcher.expect_losses(unknown_client=1, unknown_parent=1)


def test_losses_of_the_boundary_are_counted(watcher, rm, numbers):
    child, client = rm(), numbers[0]
    child.client(client)
    child.device(client, 0x80, instance=0)
    child.memory(client, 0x80, 0x1000, MIB, bad_pointer=True)
    child.memory(client, 0x80, 0x1001, MIB, flags=1)
    assert watcher.balances(child.pid) == []
    watcher.expect_losses(read_failed=1, undecoded=1)


def test_the_driver_tells_which_instance_is_which_card(watcher, rm):
    child = rm()
    id_info = struct.Struct("<IIIIIIII")
    pci_info = struct.Struct("<IIHH")
    child.call("control", command=0x202, parameters=id_info.pack(0x600, 0, 21, 0, 0, 0, 0, 0).hex())
    child.call("control", command=0x205, parameters=id_info.pack(0x700, 0, 20, 0, 0, 0, 0, 0).hex())
    child.call("control", command=0x205, parameters=id_info.pack(0x800, 0, 22, 0, 0, 0, 0, 0).hex(), status=1)
    child.call("control", command=0x21B, parameters=pci_info.pack(0x600, 0, 6, 0).hex())
    child.call("control", command=0x21B, parameters=pci_info.pack(0x700, 1, 7, 2).hex())
    # The driver is not always asked for the address; its id is made of it.
    child.call("control", command=0x205, parameters=id_info.pack(0x00020A06, 0, 23, 0, 0, 0, 0, 0).hex())
    found = watcher.witness.device_map()
    assert (found[21], found[20], found[23]) == ((0, 6, 0), (1, 7, 2), (2, 10, 6))
    assert 22 not in found


def test_api_figures_stand_beside_physical_ones_of_the_only_device(watcher, program, rm, numbers):
    child, client = rm(), numbers[0]
    child.client(client)
    child.device(client, 0x80, instance=3)
    child.memory(client, 0x80, 0x1000, 2 * MIB)
    assert watcher.balance(child.pid).device_instance == 3
    alone = program()
    alone.tell("runtime 1 0 4096")
    assert watcher.balance(alone.pid).device_instance == -1
