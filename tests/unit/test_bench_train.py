# SPDX-License-Identifier: Apache-2.0
"""The benchmark of training steps, with a process in the place of PyTorch that tells times as a test wants them."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent.parent / "tools" / "bench"

TRAINER = """
import sys
from pathlib import Path
print("ready 1234", flush=True)
for line in sys.stdin:
    nanoseconds = Path(sys.argv[1]).read_text()
    print(*[nanoseconds] * int(line), flush=True)
"""
KEY = ("resnet", "native")
READY = "print('ready 1', flush=True); input()"


@pytest.fixture
def train(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import train

    return train


@pytest.fixture
def trained(train, tmp_path):
    """Trains with steps that take so many nanoseconds by mode; returns the turns and the modes in their order."""
    clock = tmp_path / "clock"
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)

    def run(by_mode, rounds=3, steps=4):
        order = []

        @contextmanager
        def watch(mode, pids):
            assert all(Path(f"/proc/{pid}").exists() for pid in pids)
            order.append(mode)
            clock.write_text(str(by_mode[mode]))
            yield

        with train.Trainer([sys.executable, str(script), str(clock)]) as trainer:
            assert trainer.parameters == 1234
            return train.take_turns({KEY: trainer}, rounds, steps, watch)[KEY], order

    return run


def test_each_mode_has_its_turn_in_each_round_and_another_one_begins_each_time(trained):
    turns, order = trained({"off": 1_000_000, "physical": 1_000_000, "all": 1_000_000})
    assert order == ["off", "physical", "all", "physical", "all", "off", "all", "off", "physical"]
    assert {mode: [len(turn) for turn in rounds] for mode, rounds in turns.times_ns.items()} == {
        "off": [4, 4, 4],
        "physical": [4, 4, 4],
        "all": [4, 4, 4],
    }


def test_what_a_mode_costs_is_told_as_a_part_of_the_step_without_it(trained, train):
    turns, _ = trained({"off": 20_000_000, "physical": 20_000_000, "all": 20_080_000})
    assert turns.slower("physical") == [0, 0, 0]
    assert turns.slower("all") == pytest.approx([0.004] * 3)
    assert turns.is_within(train.MOST_SLOWER)
    assert turns.median_ms("all") == pytest.approx(20.08)
    assert "| resnet | native | 20.000 | 20.000 | 20.080 | +0.00% (quartiles +0.00% to +0.00%) | +0.40%" in "\n".join(
        train.lines({KEY: turns})
    )


def test_a_step_that_is_more_than_half_a_per_cent_slower_misses_the_target(trained, train):
    turns, _ = trained({"off": 20_000_000, "physical": 20_000_000, "all": 20_120_000})
    assert not turns.is_within(train.MOST_SLOWER)


def test_a_process_that_ends_is_told_and_not_taken_for_fast(train):
    with pytest.raises(RuntimeError, match="ended with status 3"):
        train.Trainer([sys.executable, "-c", "raise SystemExit(3)"])
    with (
        train.Trainer(
            [
                sys.executable,
                "-c",
                "import sys; print('ready 1', flush=True); input(); print('7 7', flush=True); sys.stdin.read()",
            ]
        ) as short,
        pytest.raises(RuntimeError, match="2 steps were timed of 5"),
    ):
        short.steps(5)


def test_a_process_without_cuda_is_refused(train):
    with (
        train.Trainer([sys.executable, "-c", READY]) as trainer,
        pytest.raises(RuntimeError, match="no libcuda"),
    ):
        train.watch_processes("all", [trainer.pid])
