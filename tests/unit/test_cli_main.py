# SPDX-License-Identifier: Apache-2.0
"""The command line as a whole: help, version, errors and their exit statuses."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from convgpu import __version__, errors
from convgpu.cli.group import LazyGroup, Verb
from convgpu.cli.main import VERBS, main
from convgpu.testing.control import FakeControlServer
from convgpu.testing.snapshots import sample_snapshot


def invoke(*arguments):
    return CliRunner().invoke(main, arguments, prog_name="convgpu")


def all_commands():
    """Every command of the tree, with the words that call it."""
    context = click.Context(main)

    def walk(command, words):
        yield words, command
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                yield from walk(command.get_command(context, name), (*words, name))

    return list(walk(main, ()))


def every_error(kind):
    """The tree of errors, its root first."""
    return [kind, *(below for child in kind.__subclasses__() for below in every_error(child))]


def test_help_lists_every_verb_and_every_exit_status():
    done = invoke("--help")
    assert done.exit_code == 0
    for name, verb in VERBS.items():
        assert f"  {name} " in done.output
        assert verb.summary in done.output
    for status in errors.exit_statuses():
        assert f"{status.code}  {status.meaning}" in done.output


def test_the_first_help_looks_as_it_was_agreed():
    """Look at the difference; if it is meant, run once with CONVGPU_UPDATE_SNAPSHOTS=1 and review the file."""
    shown = CliRunner(env={"COLUMNS": "100"}).invoke(main, ["--help"], prog_name="convgpu").output
    path = Path(__file__).parent / "snapshots" / "help.txt"
    if os.environ.get("CONVGPU_UPDATE_SNAPSHOTS") == "1":
        path.write_text(shown)
    assert shown == path.read_text()


def test_every_error_has_an_exit_status_of_its_own():
    kinds = errors.ConvgpuError.__subclasses__()
    assert len({kind.exit_code for kind in kinds} | {0, 1}) == len(kinds) + 2
    assert {kind.exit_code for kind in kinds} < {status.code for status in errors.exit_statuses()}


def test_version():
    assert invoke("--version").output == f"convgpu {__version__}\n"


@pytest.mark.parametrize(
    ("words", "command"), all_commands(), ids=lambda value: " ".join(value) if type(value) is tuple else ""
)
def test_every_help_has_an_example_and_names_itself(words, command):
    done = invoke(*words, "--help")
    assert done.exit_code == 0
    examples = done.output.partition("Example")[2]
    assert " ".join(("convgpu", *words)) in examples
    assert command.help


def test_help_loads_no_verb_and_none_of_the_heavy_packages():
    """`convgpu --help` must answer in 120 ms; what it loads decides that, and is the same on every machine."""
    code = (
        "import sys\nfrom convgpu.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(done.stderr))
    assert loaded.isdisjoint(
        {"rich", "msgspec", "docker", "pynvml", "cffi", "bcc", "asyncio", "prometheus_client", "tomllib",
         "convgpu.api", "convgpu.daemon", "convgpu.doctor", "convgpu.audit", "convgpu.simulation", "convgpu.cli.run"}
    )  # fmt: skip


def test_ps_loads_nothing_that_only_others_need(tmp_path):
    """`convgpu ps` must answer in 250 ms from a cold start."""
    code = (
        "import sys\nfrom convgpu.cli.quick import main\n"
        f"sys.argv[1:] = ['ps', '--run-dir', {str(tmp_path)!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(sorted(sys.modules), file=sys.stderr)"
    )
    with FakeControlServer(sample_snapshot(), tmp_path / "control.sock"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "alpha" in done.stdout
    loaded = set(ast.literal_eval(done.stderr.splitlines()[-1]))
    assert loaded.isdisjoint(
        {
            "rich",
            "docker",
            "requests",
            "pynvml",
            "cffi",
            "bcc",
            "asyncio",
            "prometheus_client",
            "convgpu.cli.run",
            "convgpu.daemon",
            "convgpu.doctor",
            "convgpu.audit",
            "convgpu.simulation",
        }
    )


def test_an_error_says_what_happened_and_what_to_do(monkeypatch):
    @click.command()
    def command():
        raise errors.QuotaRefusedError("too much", next_step="ask for less")

    group = LazyGroup("convgpu", verbs={"try": Verb("trial", "Try.")})
    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: command)
    done = CliRunner().invoke(group, ["try"])
    assert done.exit_code == 5
    assert done.stderr == "convgpu: too much\nnext: ask for less\n"
    assert done.stdout == ""


@pytest.mark.parametrize("kind", every_error(errors.ConvgpuError), ids=lambda kind: kind.__name__)
def test_every_error_says_what_to_do_next_also_where_its_raiser_did_not(kind, monkeypatch):
    @click.command()
    def command():
        raise kind("it happened")

    group = LazyGroup("convgpu", verbs={"try": Verb("trial", "Try.")})
    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: command)
    done = CliRunner().invoke(group, ["try"])
    assert done.exit_code == kind.exit_code
    first, second = done.stderr.splitlines()
    assert first == "convgpu: it happened"
    assert second == f"next: {kind.usual_next_step}"


def test_an_error_of_ours_keeps_its_traceback_and_says_where_to_report_it(monkeypatch):
    @click.command()
    def command():
        raise ZeroDivisionError("one over nothing")

    group = LazyGroup("convgpu", verbs={"try": Verb("trial", "Try.")})
    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: command)
    done = CliRunner().invoke(group, ["try"])
    assert done.exit_code == 1
    assert "ZeroDivisionError: one over nothing" in done.stderr
    assert "doctor --bundle" in done.stderr.splitlines()[-1]


def test_a_path_that_is_wrong_is_no_fault_of_ours(monkeypatch, tmp_path):
    @click.command()
    def command():
        (tmp_path / "nowhere" / "file").write_text("x")

    group = LazyGroup("convgpu", verbs={"try": Verb("trial", "Try.")})
    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: command)
    done = CliRunner().invoke(group, ["try"])
    assert done.exit_code == 1
    first, second = done.stderr.splitlines()
    assert first == f"convgpu: {tmp_path}/nowhere/file: No such file or directory"
    assert second.startswith("next: ")


def test_ctrl_c_is_130(monkeypatch):
    @click.command()
    def command():
        raise KeyboardInterrupt

    group = LazyGroup("convgpu", verbs={"try": Verb("trial", "Try.")})
    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: command)
    assert CliRunner().invoke(group, ["try"]).exit_code == 130


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tpo",), "No such command 'tpo'. Did you mean 'top'?"),
        (("limit", "sett"), "No such command 'sett'. Did you mean 'set'"),
        (("ps", "--fromat", "json"), "Did you mean '--format'?"),
        (("trace", "--kind", "alocc"), "'alloc'"),
        (("run", "--limit", "5GiX", "--", "image"), "5GiX"),
        (("simulate", "--algorithm", "best_fit"), "best-fit"),
    ],
)
def test_what_is_written_wrong_is_answered_with_the_nearest_right_word(words, said):
    done = invoke(*words)
    assert done.exit_code == 2
    assert said in done.stderr
