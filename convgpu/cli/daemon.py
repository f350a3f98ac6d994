# SPDX-License-Identifier: Apache-2.0
"""`convgpu daemon`: run the service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from convgpu.cli.options import SIZE, ParsedType, examples
from convgpu.core.units import parse_size
from convgpu.daemon.config import ALL_DEVICES, FAIL_CHOICES, PROBE_CHOICES, DaemonConfig
from convgpu.errors import UsageError
from convgpu.paths import DEFAULT_LOG_DIR, DEFAULT_RUN_DIR, DEFAULT_STATE_DIR

_F = TypeVar("_F", bound=Callable[..., Any])
_NO_LIMIT: Final = "none"
_DENY: Final = "deny"


def _capacity(text: str) -> tuple[str, int]:
    """Read `[GPU=]SIZE`; without a GPU it holds for all devices."""
    device, has_device, size = text.rpartition("=")
    if has_device and not device:
        raise UsageError(f"'{text}' names no GPU: write GPU=SIZE, such as 0=10GiB, or SIZE for all")
    return device or ALL_DEVICES, parse_size(size)


def _default_limit(text: str) -> str | int:
    return text if text in (_NO_LIMIT, _DENY) else parse_size(text)


def _folder(name: str, default: Path, what: str) -> Callable[[_F], _F]:
    return click.option(
        name,
        type=click.Path(path_type=Path, file_okay=False),
        default=default,
        envvar=f"CONVGPU_{name.strip('-').replace('-', '_').upper()}",
        show_envvar=True,
        help=what,
    )


@click.command(
    epilog=examples("sudo convgpu daemon", "sudo convgpu daemon --capacity 10GiB --default-limit 2GiB"),
    context_settings={"show_default": True},
)
@_folder("--run-dir", DEFAULT_RUN_DIR, "Sockets and pages.")
@_folder("--state-dir", DEFAULT_STATE_DIR, "Limits set by command.")
@_folder("--log-dir", DEFAULT_LOG_DIR, "The audit log.")
@click.option(
    "--capacity",
    "capacities",
    type=ParsedType("[gpu=]size", _capacity),
    multiple=True,
    help="What may be assigned on a GPU (UUID or index), or on each. Else all that nobody else holds.",
)
@click.option("--reserve", type=SIZE, help="What each GPU keeps free for what ConvGPU does not charge.")
@click.option("--algorithm", default="fifo", help="Who of those that wait is next.")
@click.option(
    "--default-limit",
    type=ParsedType("size|none|deny", _default_limit),
    default=_NO_LIMIT,
    help="Limit of a container without a label; deny: it may not allocate.",
)
@click.option(
    "--fail",
    "fail_policy",
    type=click.Choice(FAIL_CHOICES),
    default="closed",
    help="While no daemon runs: allocations wait for one, or go on unlimited (processes that it had welcomed).",
)
@click.option(
    "--probes",
    type=click.Choice(PROBE_CHOICES),
    default="all",
    help="What the eBPF witness watches; physical: the driver boundary alone.",
)
@click.option(
    "--interval", type=click.FloatRange(min=0.05), default=1.0, metavar="SECONDS", help="Between two reconciliations."
)
@click.option("--simulated", is_flag=True, help="The GPUs are those of `convgpu sim up`; everything shown says so.")
@click.pass_context
def command(
    ctx: click.Context,
    run_dir: Path,
    state_dir: Path,
    log_dir: Path,
    capacities: tuple[tuple[str, int], ...],
    reserve: int | None,
    algorithm: str,
    default_limit: str | int,
    fail_policy: str,
    probes: str,
    interval: float,
    simulated: bool,
) -> None:
    """Run the service in the foreground until SIGTERM or Ctrl-C. It needs root.

    Killed and started again, it goes on where it was: what every process holds is in its page.
    """
    from convgpu.daemon.service import run  # the whole service: not for `--help`

    config = DaemonConfig(
        run_dir=run_dir,
        state_dir=state_dir,
        log_dir=log_dir,
        capacities=dict(capacities),
        reserve_bytes=reserve or 0,
        algorithm=algorithm,
        default_limit_bytes=default_limit if isinstance(default_limit, int) else None,
        deny_unlabelled=default_limit == _DENY,
        fail_policy=fail_policy,
        probes=probes,
        interval_s=interval,
        simulated=simulated,
    )
    ctx.exit(run(config))
