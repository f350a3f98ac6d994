# SPDX-License-Identifier: Apache-2.0
"""What people read of a decision."""

from __future__ import annotations

import pytest

from convgpu.audit.records import RECORD_TYPES
from convgpu.core import sentences
from convgpu.core.decision import Reason
from convgpu.core.units import GIB, MIB

ASKED = {
    "container": {"id": 64 * "a", "name": "beta", "image": None},
    "process": {"pid": 4207, "start_ticks": 1, "comm": "story", "uid": 0},
    "gpu": {"id": "GPU-x", "index": 0},
    "size_bytes": 4 * GIB,
    "used_bytes": 512 * MIB,
    "limit_bytes": 5 * GIB,
    "free_bytes": 0,
    "waiting_bytes": 0,
    "waited_ns": 0,
    "forced": False,
}


def say(type_name, **fields):
    return RECORD_TYPES[type_name].sentence({**ASKED, **fields})


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (say("decision.granted"), "beta was granted 4GiB on GPU 0; holds 4.50GiB of 5GiB, for story[4207]"),
        (
            say("decision.granted", forced=True),
            "beta took 4GiB on GPU 0 without asking; holds 4.50GiB of 5GiB, for story[4207]",
        ),
        (
            say("decision.resumed", waited_ns=12_340_000_000),
            "beta was granted 4GiB on GPU 0 after waiting 12.3 s; holds 4.50GiB of 5GiB, for story[4207]",
        ),
        (
            say("decision.suspended", need_bytes=512 * MIB, position=1),
            "beta waits for 4GiB on GPU 0: needs 512MiB more, 0B free, position 1, for story[4207]",
        ),
        (
            say("decision.denied", reason="limit", limit_bytes=GIB),
            "beta was denied 4GiB on GPU 0: over its limit, holds 512MiB of 1GiB, for story[4207]",
        ),
        (
            say("decision.denied", reason="limit", limit_bytes=GIB, waiting_bytes=256 * MIB),
            "beta was denied 4GiB on GPU 0: over its limit, holds 512MiB and waits for 256MiB of 1GiB, for story[4207]",
        ),
        (
            say("decision.denied", reason="wait_timeout", waited_ns=30_000_000_000),
            "beta was denied 4GiB on GPU 0: after 30.0 s, that is as long as it may wait, for story[4207]",
        ),
        (
            say("decision.denied", reason="not_now"),
            "beta was denied 4GiB on GPU 0: it could not wait for it, 0B free, for story[4207]",
        ),
        (say("decision.withdrawn"), "beta waits no more for 4GiB on GPU 0: who asked is gone, for story[4207]"),
        (say("start.suspended", guarantee_bytes=GIB), "beta waits for 1GiB on GPU 0 to start"),
        (say("start.admitted", waited_ns=65_000_000_000), "beta may start after waiting 1 min 5 s"),
        (
            say("start.denied", reason="wait_timeout", waited_ns=1_000_000),
            "beta was not started after waiting 1 ms: that is as long as it may wait",
        ),
    ],
)  # fmt: skip
def test_a_decision_is_a_sentence_with_the_numbers_that_led_to_it(said, sentence):
    assert said == sentence


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_words(reason):
    said = say("decision.denied", reason=reason)
    assert f": {reason}" not in said
    assert len(said) > len("beta was denied 4GiB on GPU 0: , for story[4207]")


def test_what_is_not_known_is_left_out_and_never_zero():
    bare = {"container": {"id": 64 * "b", "name": None}, "size_bytes": MIB, "reason": "device", "waited_ns": 0}
    assert sentences.denied(bare) == "bbbbbbbbbbbb was denied 1MiB: the container has no share of this device"
    assert sentences.granted(bare) == "bbbbbbbbbbbb was granted 1MiB"


@pytest.mark.parametrize(
    ("duration_ns", "written"),
    [(0, "0 ms"), (340_000_000, "340 ms"), (12_345_000_000, "12.3 s"), (307 * 10**9, "5 min 7 s"),
     (12000 * 10**9, "3 h 20 min")],
)  # fmt: skip
def test_durations_are_written_with_two_units_at_most(duration_ns, written):
    assert sentences.waited(duration_ns) == written
