# SPDX-License-Identifier: Apache-2.0
"""The three-way check of one process: what its page says, what the witness saw, what NVML shows. Values in, word out.

What must not raise anything: a call in flight (its bytes are `reserved`), two figures that were read one after another
(a page that moved meanwhile is held against all that it was granted), and memory that ended with its open file, which
the witness does not see end. What is read late or lags behind is left to `core.watch`: only what lasts counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from convgpu.core.identity import ContainerId, GpuUuid, ProcessKey
from convgpu.core.units import GRANULE_BYTES, format_size

SLACK_BYTES: Final = GRANULE_BYTES
"""What is seen beyond the page counts from here on: no program can take less video memory for itself than a granule."""


class FindingKind(StrEnum):
    """What may be wrong, the gravest first."""

    TAMPERED = "tampered"
    """The owner of a credit page wrote into it what it may not."""
    BYPASS = "bypass"
    """The wrapper is loaded, and there is more memory than it said."""
    UNWRAPPED = "unwrapped"
    """A process holds memory and never loaded the wrapper."""
    EXTERNAL = "external"
    """What is held outside leaves less than containers are assigned."""
    MISMATCH = "mismatch"
    """The figures differ in a way that none of the others explains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFigures:
    """One device's account in a credit page, and what the daemon knows better than the page.

    Attributes:
        granted_bytes: As the page has it.
        held_bytes: What the daemon granted and has not taken back.
        estimated: The wrapper cannot read this driver's allocations; `used_bytes` is what the API was asked for.
        altered: Names of fields that only the daemon writes and that have other values than it wrote.
    """

    used_bytes: int
    managed_bytes: int = 0
    reserved_bytes: int = 0
    credit_bytes: int = 0
    granted_bytes: int
    held_bytes: int
    estimated: bool = False
    altered: tuple[str, ...] = ()

    @property
    def claimed_bytes(self) -> int:
        """All that the page says of granted bytes: in use, in flight, or to be taken."""
        return self.used_bytes + self.managed_bytes + self.reserved_bytes + self.credit_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFigures:
    """One process on one device at one look.

    Attributes:
        page: None: it never said HELLO.
        most_held_bytes: The most that it had been granted while the look lasted.
        at_rest: Its page was the same before and after the look, so that all figures are of one moment.
        witness_bytes: None: no witness runs.
        witness_frees: Allocations that the witness saw end, ever.
        partial: It held memory when the witness came. The witness's figure begins with NVML's of then, and it does not
            see that part end: it says nothing against the page.
        nvml_bytes: None: NVML does not list the process, or gives no figure for it. It lists no process that merely
            holds memory and computes nothing.
        has_driver_file: Whether the process has a file of the driver open; None: nobody looked.
    """

    key: ProcessKey
    page: PageFigures | None
    most_held_bytes: int = 0
    at_rest: bool = True
    witness_bytes: int | None = None
    witness_frees: int = 0
    partial: bool = False
    nvml_bytes: int | None = None
    has_driver_file: bool | None = None

    @property
    def said_bytes(self) -> int:
        """The most that its page accounts for."""
        if self.page is None:
            return 0
        said_bytes = self.page.used_bytes + self.page.reserved_bytes
        return said_bytes if self.at_rest else max(said_bytes, self.most_held_bytes)

    @property
    def only_the_witness_sees_more(self) -> bool:
        """Whether its driver files have to be looked for: NVML does not list it, and the witness sees what it has."""
        if self.partial or self.nvml_bytes is not None:
            return False
        return (self.witness_bytes or 0) - self.said_bytes >= SLACK_BYTES


@dataclass(frozen=True, slots=True)
class Agreement:
    """The last time that page and witness agreed about a process: from there `used` may only fall with a free."""

    used_bytes: int
    frees: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one process looks like at one look, and why."""

    kind: FindingKind
    reason: str


def agreement(process: ProcessFigures) -> Agreement | None:
    """Return what can be held against a later look; None: page and witness do not agree now."""
    page = process.page
    if page is None or process.partial or not process.at_rest or page.reserved_bytes:
        return None
    if page.used_bytes != process.witness_bytes:
        return None
    return Agreement(page.used_bytes, process.witness_frees)


def judge(process: ProcessFigures, agreed: Agreement | None = None) -> Verdict | None:
    """Say what is wrong with a process; None: nothing, or nothing that can be decided from this look.

    Args:
        process: The figures of this look.
        agreed: The last agreement of page and witness about it.
    """
    page = process.page
    forged = _forged(page) if page is not None else None
    if forged is not None:
        return Verdict(FindingKind.TAMPERED, forged)
    if page is not None and page.estimated:
        return None
    excess_bytes = _excess_bytes(process)
    if excess_bytes >= SLACK_BYTES:
        return _verdict_of_excess(process, excess_bytes, agreed)
    return _verdict_of_difference(process)


def _forged(page: PageFigures) -> str | None:
    """Return what the page itself gives away."""
    if page.altered:
        return f"the daemon did not write what the page has as {', '.join(page.altered)}"
    if page.granted_bytes != page.held_bytes:
        granted, held = format_size(page.granted_bytes), format_size(page.held_bytes)
        return f"the page says that {granted} were granted, the daemon granted {held}"
    if page.claimed_bytes > page.held_bytes:
        claimed, held = format_size(page.claimed_bytes), format_size(page.held_bytes)
        return f"the page has {claimed}, the daemon granted {held}"
    return None


def _excess_bytes(process: ProcessFigures) -> int:
    """Return what there is beyond the page.

    The driver's own figure counts. The witness's counts where NVML does not list the process and it has a file of the
    driver open: memory that was closed with its file stays in the witness's balance until the process ends.
    """
    if process.nvml_bytes is not None:
        return process.nvml_bytes - process.said_bytes
    if process.only_the_witness_sees_more and process.has_driver_file is not False:
        return (process.witness_bytes or 0) - process.said_bytes
    return 0


def _verdict_of_excess(process: ProcessFigures, excess_bytes: int, agreed: Agreement | None) -> Verdict:
    page, excess = process.page, format_size(excess_bytes)
    if page is None:
        return Verdict(FindingKind.UNWRAPPED, f"{excess} held without the wrapper")
    fallen_bytes = agreed.used_bytes - page.used_bytes if agreed is not None else 0
    if process.at_rest and agreed is not None and agreed.frees == process.witness_frees and fallen_bytes >= SLACK_BYTES:
        fallen = format_size(fallen_bytes)
        return Verdict(FindingKind.TAMPERED, f"what the page has in use fell by {fallen}, and nothing was freed")
    gone_bytes = page.held_bytes - page.claimed_bytes
    if process.at_rest and gone_bytes >= SLACK_BYTES:
        gone = format_size(gone_bytes)
        return Verdict(FindingKind.TAMPERED, f"{gone} were granted and are nowhere in the page, {excess} are held")
    return Verdict(FindingKind.BYPASS, f"{excess} held beyond what the wrapper said")


def _verdict_of_difference(process: ProcessFigures) -> Verdict | None:
    """Compare the figures themselves, where nothing moves."""
    page = process.page
    if page is not None and (not process.at_rest or page.reserved_bytes):
        return None
    used_bytes = 0 if page is None else page.used_bytes
    witness_bytes = None if process.partial else process.witness_bytes
    if witness_bytes in (None, used_bytes) and process.nvml_bytes in (None, used_bytes):
        return None
    if witness_bytes is not None and witness_bytes > used_bytes:
        return Verdict(FindingKind.MISMATCH, "the witness alone sees it: it may have ended with the driver's file")
    if process.nvml_bytes in (None, used_bytes):
        return Verdict(FindingKind.MISMATCH, "the witness has not seen all of it")
    return Verdict(FindingKind.MISMATCH, "the figures differ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """What looks wrong with a container, or with a device, at one look.

    Attributes:
        container: None: it concerns the device alone.
        processes: Whom it is about.
        used_bytes: The ledger's figure for the container on the device; and so on for the witness and NVML.
    """

    kind: FindingKind
    container: ContainerId | None
    gpu: GpuUuid
    reason: str
    processes: tuple[ProcessKey, ...] = ()
    used_bytes: int | None = None
    witness_bytes: int | None = None
    nvml_bytes: int | None = None
    assigned_bytes: int | None = None
    capacity_bytes: int | None = None
    external_bytes: int | None = None


def suspicions(
    container: ContainerId, gpu: GpuUuid, verdicts: Iterable[tuple[ProcessFigures, Verdict | None]]
) -> list[Suspicion]:
    """Gather what was said of a container's processes on a device: one suspicion of each kind, gravest first."""
    judged = list(verdicts)
    pages = [process.page for process, _ in judged if process.page is not None]
    found = []
    for kind in FindingKind:
        concerned = [(process, verdict) for process, verdict in judged if verdict is not None and verdict.kind == kind]
        if concerned:
            found.append(
                Suspicion(
                    kind=kind,
                    container=container,
                    gpu=gpu,
                    reason="; ".join(dict.fromkeys(verdict.reason for _, verdict in concerned)),
                    processes=tuple(sorted(process.key for process, _ in concerned)),
                    used_bytes=sum(page.used_bytes for page in pages) if pages else None,
                    witness_bytes=_sum(process.witness_bytes for process, _ in judged),
                    nvml_bytes=_sum(process.nvml_bytes for process, _ in judged),
                )
            )
    return found


def _sum(figures: Iterable[int | None]) -> int | None:
    """Add up what is known; None: nothing is."""
    known = [figure for figure in figures if figure is not None]
    return sum(known) if known else None


def external(
    gpu: GpuUuid,
    *,
    assigned_bytes: int,
    capacity_bytes: int,
    external_bytes: int,
    processes: Iterable[ProcessKey] = (),
) -> Suspicion | None:
    """Say whether what is held outside is in the way of what containers are assigned.

    Args:
        gpu: The device.
        assigned_bytes: The sum of its containers' assignments.
        capacity_bytes: What may be assigned now.
        external_bytes: By how much what is held outside lowers the capacity; 0 where the capacity is configured.
        processes: Those outside that hold memory, as far as NVML lists them.
    """
    if not external_bytes or not capacity_bytes < assigned_bytes <= capacity_bytes + external_bytes:
        return None
    lacking = format_size(assigned_bytes - capacity_bytes)
    return Suspicion(
        kind=FindingKind.EXTERNAL,
        container=None,
        gpu=gpu,
        reason=f"what is held outside leaves {lacking} less than containers are assigned",
        processes=tuple(sorted(processes)),
        assigned_bytes=assigned_bytes,
        capacity_bytes=capacity_bytes,
        external_bytes=external_bytes,
    )


def undecided(
    *, witness: str | None, silent_gpus: Iterable[int] = (), partial: int = 0, estimating: int = 0
) -> tuple[str, ...]:
    """Say what cannot be found out now, each as a sentence.

    Args:
        witness: Why no witness runs; None: one does.
        silent_gpus: Indices of devices for whose processes NVML gives no figures.
        partial: Processes that held memory when the witness came.
        estimating: Processes whose ledger is an estimate.
    """
    silent = sorted(silent_gpus)
    found = []
    if witness is not None:
        found.append(
            f"no witness ({witness}): memory of processes that NVML does not list is not found, and a page whose used "
            "bytes were lowered is taken for a bypass"
        )
    if silent:
        names = ", ".join(map(str, silent))
        and_so = "nothing that goes past the wrapper is found" if witness is not None else "the witness alone is asked"
        found.append(f"NVML gives no figures for the processes on GPU {names}: {and_so}")
    if partial:
        count = "one process" if partial == 1 else f"{partial} processes"
        found.append(f"{count} held memory before the witness came: NVML alone is asked")
    if estimating:
        count = "one process is" if estimating == 1 else f"{estimating} processes are"
        found.append(f"the memory of {count} estimated: a bypass cannot be told from the error of the estimate")
    return tuple(found)
