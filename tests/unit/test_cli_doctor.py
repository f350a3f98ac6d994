# SPDX-License-Identifier: Apache-2.0
"""`convgpu doctor`: report, JSON and exit status."""

from __future__ import annotations

import gc
import json

import pytest
from click.testing import CliRunner

import convgpu.doctor
from convgpu.cli.main import main
from convgpu.doctor.finding import Check, Verdict


@pytest.fixture
def doctor(monkeypatch):
    """Run the command with other checks than the machine's."""

    def invoke(verdicts, *arguments):
        checks = tuple(Check(name, lambda _, verdict=verdict: verdict) for name, verdict in verdicts.items())
        examine = convgpu.doctor.examine
        monkeypatch.setattr(convgpu.doctor, "examine", lambda paths, **more: examine(paths, checks, **more))
        try:
            return CliRunner().invoke(main, ["doctor", *arguments])
        finally:
            monkeypatch.undo()

    return invoke


def test_warnings_are_allowed(doctor):
    done = doctor({"a": Verdict("ok", "fine"), "b": Verdict("warn", "meh", "mend it"), "c": Verdict("skip", "no need")})
    assert done.exit_code == 0
    assert "fix: mend it" in done.stdout
    assert done.stdout.endswith("1 ok, 1 warn, 1 skip\n")


def test_a_failure_is_exit_status_1(doctor):
    done = doctor({"a": Verdict("ok", "fine"), "b": Verdict("fail", "broken", "mend it")})
    assert done.exit_code == 1


def test_json(doctor):
    done = doctor({"b": Verdict("fail", "broken", "mend it"), "a": Verdict("ok", "fine")}, "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout) == [
        {"name": "b", "status": "fail", "detail": "broken", "fix": "mend it"},
        {"name": "a", "status": "ok", "detail": "fine", "fix": None},
    ]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # docker-py drops a socket unclosed
def test_on_this_machine_whatever_it_is_there_is_no_traceback():
    done = CliRunner().invoke(main, ["doctor", "--json"])
    assert done.exit_code in (0, 1)
    findings = json.loads(done.stdout)
    assert [finding["name"] for finding in findings] == [check.name for check in convgpu.doctor.CHECKS]
    assert not [finding for finding in findings if "the check itself failed" in finding["detail"]]
    assert all(finding["fix"] for finding in findings if finding["status"] == "fail")
    gc.collect()
