# SPDX-License-Identifier: Apache-2.0
"""What the daemon shows: one immutable snapshot, the same for the command line, the monitor and users' scripts.

Field names are the JSON names. Sizes are bytes. A value that is not known is None (JSON null), never 0.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStatus:
    """A process of a container; in `DeviceUsage` its share of that device, in `ContainerStatus` the sum of all.

    Attributes:
        estimated: Its driver allocates in a form that the wrapper cannot read: the ledger has what the API asked for.
        witness_partial: It held memory when the witness came: that part of `witness_bytes` is NVML's, measured once.
    """

    pid: int
    comm: str | None
    used_bytes: int | None
    witness_bytes: int | None = None
    nvml_bytes: int | None = None
    estimated: bool = False
    witness_partial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUsage:
    """One container on one device.

    Attributes:
        used_bytes: The ledger: what the wrapper settled at the driver boundary.
        managed_bytes: Managed memory as the programs asked for it; counts against the limit beside `used_bytes`.
        witness_bytes: What the eBPF witness saw at the same boundary.
        nvml_bytes: What NVML reports for the container's processes.
        requested_bytes: Live bytes as the programs asked the CUDA runtime for them (witness); never summed with others.
        waiting: Suspended requests now.
        denied: Requests denied since the container started.
        suspended_ms: Time that requests spent suspended, summed, those still waiting included.
    """

    uuid: str
    index: int
    limit_bytes: int | None
    guarantee_bytes: int | None
    assigned_bytes: int | None
    used_bytes: int | None
    peak_bytes: int | None
    witness_bytes: int | None
    nvml_bytes: int | None
    waiting: int
    denied: int
    suspended_ms: int
    requested_bytes: int | None = None
    managed_bytes: int | None = None
    processes: tuple[ProcessStatus, ...] = ()

    @property
    def estimated(self) -> bool:
        """Whether the ledger of one of its processes is an estimate."""
        return any(process.estimated for process in self.processes)

    @property
    def witness_partial(self) -> bool:
        """Whether one of its processes held memory when the witness came."""
        return any(process.witness_partial for process in self.processes)


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingStatus:
    """Something that the three-way check found and that lasts; docs/threat-model.md says what each kind means.

    Attributes:
        kind: `tampered`, `bypass`, `unwrapped`, `external` or `mismatch`.
        uuid: The device.
        reason: What gave it away, for a person.
        pids: The processes that it is about.
        since: When it was raised, RFC 3339.
        action: What was done about it: `log`, `notify`, `pause` or `stop`.
        container_id: None: it concerns the device alone.
        container_name: Docker's name of it.
        used_bytes: The ledger's figure when it was last seen; and so on for the witness and NVML.
        assigned_bytes: Of `external`: what containers are assigned on the device.
        capacity_bytes: Of `external`: what they may be assigned.
        external_bytes: Of `external`: what is held outside.
    """

    kind: str
    uuid: str
    reason: str
    pids: tuple[int, ...]
    since: str
    action: str
    container_id: str | None = None
    container_name: str | None = None
    used_bytes: int | None = None
    witness_bytes: int | None = None
    nvml_bytes: int | None = None
    assigned_bytes: int | None = None
    capacity_bytes: int | None = None
    external_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupUsage:
    """One group of containers on one device.

    Attributes:
        limit_bytes: The most that its containers may hold together; None: it bounds nothing there.
        source: Where the limit comes from: `command` or `configuration`; None: nobody said anything.
        assigned_bytes: What is set aside for its containers, those of groups in it included.
        used_bytes: What they hold of it, managed memory included.
        waiting: Their suspended requests.
        over: More is assigned than the limit: it was lowered, or memory was taken by force. They get nothing more.
    """

    uuid: str
    index: int
    limit_bytes: int | None
    source: str | None
    assigned_bytes: int
    used_bytes: int
    waiting: int
    over: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStatus:
    """A group of containers that share a quota.

    Attributes:
        name: `lab/team` is a group in `lab`.
        containers: The names of its containers, those of groups in it included.
        devices: All devices.
    """

    name: str
    containers: tuple[str, ...]
    devices: tuple[GroupUsage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerStatus:
    """One container.

    Attributes:
        state: Docker's word (`running`, `paused`, ...).
        guarded: False: it has no setting of ConvGPU, and is here because it holds GPU memory.
        findings: What the three-way check found about it, the gravest first.
        group: The group with whose containers it shares a quota; None: it is in none.
    """

    container_id: str
    name: str
    image: str
    state: str
    devices: tuple[DeviceUsage, ...]
    processes: tuple[ProcessStatus, ...]
    guarded: bool = True
    findings: tuple[FindingStatus, ...] = ()
    group: str | None = None

    def findings_on(self, uuid: str) -> tuple[str, ...]:
        """Return the kinds of what was found on one device, the gravest first."""
        return tuple(finding.kind for finding in self.findings if finding.uuid == uuid)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuStatus:
    """One device.

    Attributes:
        capacity_bytes: What ConvGPU may assign: total minus reserve minus external, where none is configured.
        external_bytes: What is held outside ConvGPU, by NVML: other programs, and the driver itself; rounded up.
        findings: What the three-way check found that concerns no single container.
    """

    uuid: str
    index: int
    name: str
    total_bytes: int | None
    capacity_bytes: int
    assigned_bytes: int
    used_bytes: int | None
    utilization_percent: int | None
    temperature_c: int | None
    external_bytes: int | None = None
    findings: tuple[FindingStatus, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingStatus:
    """One that waits on one device: a suspended allocation, or a container that starts.

    Attributes:
        kind: `allocation` or `start`.
        pid: The process that asked; None: a start.
        api: The call that asked.
        size_bytes: What was asked for; of a start, its guarantee.
        need_bytes: What its container would have to be assigned more.
        left_ms: Time until it is denied; None: it waits without end.
        position: From 1, in the order in which the algorithm would serve; starts are counted apart.
        place: What gives it its place, in a few words.
        passed: How often its container was passed over.
        overdue: It is at the head of the line, whatever the algorithm says.
        obstacle: Why it does not go on: `not_free`, `group`, `unsafe` or `held_back`; None: nobody asked.
        goes_on: What would let it go on, in words; None: nobody asked.
        enough: Ids of containers of which the end of any single one would let it go on, some of them.
        group: The group of its container; None: it is in none.
        full_group: The group that would not let it have so much, whatever the device has; None: none would, or nobody
            asked.
    """

    container_id: str
    container_name: str
    uuid: str
    size_bytes: int
    waited_ms: int
    position: int
    kind: str = "allocation"
    pid: int | None = None
    comm: str | None = None
    api: str | None = None
    need_bytes: int | None = None
    left_ms: int | None = None
    place: str | None = None
    passed: int = 0
    overdue: bool = False
    obstacle: str | None = None
    goes_on: str | None = None
    enough: tuple[str, ...] = ()
    group: str | None = None
    full_group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessStatus:
    """State of the eBPF side. `lost` counts what could not be seen or told, by kind; bpf/README.md explains each."""

    running: bool
    reason: str | None
    attached: tuple[str, ...]
    missing: tuple[str, ...]
    lost: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything at one moment. `undecided`: what the three-way check cannot find out now, each as a sentence."""

    taken_at: str
    version: str
    simulated: bool
    driver: str | None
    algorithm: str
    gpus: tuple[GpuStatus, ...]
    containers: tuple[ContainerStatus, ...]
    queue: tuple[WaitingStatus, ...]
    witness: WitnessStatus
    audit_path: str | None
    audit_seq: int | None
    audit_head: str | None
    undecided: tuple[str, ...] = ()
    groups: tuple[GroupStatus, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingStatus:
    """One setting of the daemon, as it is in force.

    Attributes:
        key: Its full name: `reserve`, or `device.0.reserve` for one device.
        value: As it is written in the configuration file.
        source: `default`, `file`, `environment` or `command line`.
        live: Whether a reload can change it.
        after_restart: What the configuration says by now, where only a restart can bring it into force.
    """

    key: str
    value: str | int | bool
    source: str
    live: bool
    after_restart: str | int | bool | None = None
