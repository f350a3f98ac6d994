# SPDX-License-Identifier: Apache-2.0
"""The table of keys: every setting once, with its name, form, default and meaning.

`DaemonConfig` is the table: each field carries its key. Reading, `convgpu config show`, the options of `convgpu daemon`
and the documentation are made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from convgpu.config import forms
from convgpu.config import groups as of_groups
from convgpu.config.device import DeviceConfig
from convgpu.config.forms import AUTO, NO_LIMIT, Auto, Deny, NoLimit
from convgpu.config.key import Key
from convgpu.config.key import key_field as _key
from convgpu.core.amount import Amount
from convgpu.core.findings import FindingKind
from convgpu.core.identity import GpuUuid, GroupName
from convgpu.core.listen import Address
from convgpu.core.units import MIB
from convgpu.paths import DEFAULT_LOG_DIR, DEFAULT_RUN_DIR, DEFAULT_STATE_DIR, RunPaths

LOG: Final = "log"
NOTIFY: Final = "notify"
PAUSE: Final = "pause"
STOP: Final = "stop"
CONTINUE: Final = "continue"
DEVICE_ACTIONS: Final = (LOG, NOTIFY)
"""What can be done about a finding that concerns no container."""
CONTAINER_ACTIONS: Final = (LOG, NOTIFY, PAUSE, STOP)
DEVICE_TABLE: Final = "device"
"""The table of the file that holds, for single GPUs, what is said of all before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonConfig:
    """Settings of one daemon; `KEYS` says what each of them means.

    Attributes:
        devices: What is set for single GPUs: by UUID or by NVML index as text, then by attribute.
        groups: The limits of groups.
    """

    run_dir: Path = _key(
        DEFAULT_RUN_DIR,
        forms.FOLDER,
        "Control socket and credit pages. Other commands look for the daemon here too. Best a folder that a reboot "
        "clears.",
    )
    state_dir: Path = _key(
        DEFAULT_STATE_DIR,
        forms.FOLDER,
        "The state file: limits set by command, assignments, counters. Here is also what containers have mounted: "
        "the folder of their socket and their ld.so.preload. It must survive a reboot, when Docker starts containers "
        "again before the daemon is there.",
    )
    log_dir: Path = _key(DEFAULT_LOG_DIR, forms.FOLDER, "The audit log. docs/audit.md says what is in it.")
    audit_max_size_bytes: int | NoLimit = _key(
        256 * MIB,
        forms.SIZE,
        "How large a file of the audit log becomes before the next begins. The files before it stay where they are, "
        "and the hash chain goes on from one to the next.",
        name="audit_max_size",
    )
    audit_max_age_ns: int | NoLimit = _key(
        NO_LIMIT,
        forms.DURATION,
        "How old the first record of a file of the audit log becomes before the next file begins.",
        name="audit_max_age",
    )
    audit_seal_interval_ns: int | NoLimit = _key(
        60_000_000_000,
        forms.DURATION,
        "How long a record of the audit log waits for a seal at most. A change of any byte before a seal is found.",
        name="audit_seal_interval",
    )
    audit_key: Path | NoLimit = _key(
        NO_LIMIT,
        forms.FILE,
        "The private key with which seals are signed, made by `convgpu audit keygen`. It needs the Python package "
        "cryptography: pip install 'convgpu[sign]'.",
    )
    on_audit_failure: str = _key(
        CONTINUE,
        forms.one_of(CONTINUE, STOP),
        "What is done when the audit log cannot be written, as on a full disk. continue: decisions go on, what is not "
        "in the log is counted, and the log says it as soon as it can be written again. stop: the daemon ends with "
        "status 7, and the key fail says what allocations do then.",
        live=True,
    )
    capacity: Amount | Auto = _key(
        AUTO,
        forms.CAPACITY,
        "What containers may be assigned on a GPU. A share is one of the GPU's memory. With auto it is what the GPU "
        "has, minus what processes outside ConvGPU hold (as NVML measures it, all the time), minus the reserve. A "
        "capacity that is set holds as it is, whatever others hold.",
        live=True,
        per_device=True,
    )
    reserve: Amount = _key(
        Amount(),
        forms.AMOUNT,
        "What a GPU keeps free where its capacity is auto. A share is one of the GPU's memory. For programs outside "
        "ConvGPU that come and go, and for what the driver takes besides.",
        live=True,
        per_device=True,
    )
    default_limit: Amount | NoLimit | Deny = _key(
        NO_LIMIT,
        forms.DEFAULT_LIMIT,
        "Limit of a container without the label convgpu.limit. A share is one of each GPU's capacity when the "
        "container is first seen; so is none: all of it. With deny such a container may not allocate. A change holds "
        "for containers that come later.",
        live=True,
        per_device=True,
    )
    default_guarantee: Amount | Auto = _key(
        AUTO,
        forms.DEFAULT_GUARANTEE,
        "What is set aside from the start for a container without the label convgpu.limit. A share is one of each "
        "GPU's capacity; never more than the limit. With auto it is all of the limit, or nothing where the limit is "
        "none. A change holds for containers that come later.",
        live=True,
        per_device=True,
    )
    algorithm: str = _key("fifo", forms.ALGORITHM, "Who of those that wait is next. See docs/scheduling.md.", live=True)
    seed: int = _key(
        0,
        forms.WHOLE_NUMBER,
        "Seed of the algorithm's random numbers. The same events with the same seed give the same decisions.",
    )
    max_bypass: int = _key(
        64,
        forms.WHOLE_NUMBER,
        "How often a waiting container may be passed over before it is next whatever the algorithm says. 0: there is "
        "no end to it, as in the paper of 2017.",
        live=True,
    )
    safe: bool = _key(
        True,
        forms.BOOLEAN,
        "Memory is handed out only so that every container can still reach its limit in some order. Without it "
        "containers can block each other for ever: for experiments that show just that.",
        live=True,
        per_device=True,
        opposite="unsafe",
    )
    fail_policy: str = _key(
        "closed",
        forms.one_of("closed", "open"),
        "While no daemon runs, allocations wait for one (closed), or go on unlimited (open). Open concerns processes "
        "that a daemon had welcomed, three seconds after it went away; the next daemon finds what they took.",
        name="fail",
        live=True,
    )
    probes: str = _key(
        "all",
        forms.one_of("all", "physical", "off"),
        "What the eBPF witness watches. physical: the driver boundary alone, off: nothing.",
    )
    interval_s: float = _key(
        1.0,
        forms.SECONDS,
        "Between two looks at NVML and the witness. Differences, losses and what others hold are noticed that often.",
        name="interval",
        live=True,
    )
    runtime_next: str = _key(
        "runc",
        forms.PROGRAM,
        "The OCI runtime to which convgpu-runtime leaves the work. A path, or a name on the PATH: runc, crun, "
        "nvidia-container-runtime.",
        live=True,
    )
    runtime_unlabelled: str = _key(
        "guard",
        forms.one_of("guard", "pass"),
        "What convgpu-runtime does with containers without any label convgpu.*. guard: they are limited by "
        "default_limit. pass: they go to the next runtime unchanged, best where it is the default runtime.",
        live=True,
    )
    runtime_daemon_absent: str = _key(
        "start",
        forms.one_of("start", "refuse"),
        "What convgpu-runtime does while no daemon answers. start: containers start, and their allocations wait for a "
        "daemon; so after a reboot Docker can start those with a restart policy. refuse: guarded containers do not "
        "start.",
        live=True,
    )
    watch: str = _key(
        "guarded",
        forms.one_of("guarded", "all"),
        "Whose processes are looked at: those of guarded containers, or those of all. With all, a container without "
        "any setting of ConvGPU that holds GPU memory is a finding too (unwrapped), and on_unwrapped concerns it.",
        live=True,
    )
    on_unwrapped: str = _key(
        "log",
        forms.one_of(*CONTAINER_ACTIONS),
        "What is done when a process of a container holds GPU memory without the wrapper. A record in the audit log is "
        "written in any case; notify runs notify_command, pause and stop do with the container what `docker pause` "
        "and `docker stop` do. See docs/threat-model.md.",
        live=True,
    )
    on_bypass: str = _key(
        "log",
        forms.one_of(*CONTAINER_ACTIONS),
        "What is done when a process holds more than its wrapper said. As on_unwrapped.",
        live=True,
    )
    on_tampered: str = _key(
        "log",
        forms.one_of(*CONTAINER_ACTIONS),
        "What is done when a process wrote into its credit page what it may not. As on_unwrapped.",
        live=True,
    )
    on_external: str = _key(
        "log",
        forms.one_of(*DEVICE_ACTIONS),
        "What is done when processes outside ConvGPU hold so much that containers cannot have what they are assigned. "
        "As on_unwrapped; those processes are never touched.",
        live=True,
    )
    notify_command: tuple[str, ...] = _key(
        (),
        forms.COMMAND,
        "What notify runs, as root and without a shell: once for each finding, which it gets as JSON on stdin and in "
        "CONVGPU_FINDING. It has ten seconds, four run at a time, and there are thirty a minute at most.",
        live=True,
    )
    group_without_limit: str = _key(
        "sum",
        forms.one_of("sum", "refuse"),
        "What is done with a container that names a group which has no limit on any GPU, and is in none that has. sum: "
        "the group bounds nothing, and shows what its containers hold together. refuse: the container does not start, "
        "so that a mistyped name is noticed.",
        live=True,
    )
    group_by_compose_project: bool = _key(
        False,
        forms.BOOLEAN,
        "A container of a compose project (label com.docker.compose.project) is in the group of that name, unless it "
        "has a label convgpu.group. It is so as long as the container runs.",
        live=True,
        opposite="no-group-by-compose-project",
    )
    metrics_listen: Address | None = _key(
        None,
        forms.LISTEN,
        "Where Prometheus can read metrics. Whoever can connect can read them, names of containers too: there is no "
        "password and no encryption. See docs/reference/metrics.md.",
    )
    metrics_remote: bool = _key(
        False,
        forms.BOOLEAN,
        "Metrics may be served at an address that other machines reach. Without it metrics_listen has to be a "
        "loopback address.",
        opposite="metrics-local",
    )
    simulated: bool = _key(
        False,
        forms.BOOLEAN,
        "The GPUs are those of `convgpu sim up`. Everything that is shown says so.",
        opposite="real",
    )
    devices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    groups: of_groups.GroupSettings = field(default_factory=dict)

    def action(self, kind: FindingKind) -> str:
        """What is to be done about a finding; `log` for a kind that nothing can be configured for."""
        return {
            FindingKind.UNWRAPPED: self.on_unwrapped,
            FindingKind.BYPASS: self.on_bypass,
            FindingKind.TAMPERED: self.on_tampered,
            FindingKind.EXTERNAL: self.on_external,
        }.get(kind, LOG)

    @property
    def paths(self) -> RunPaths:
        """The files of the run folder, and those that containers see."""
        return RunPaths(self.run_dir, self.state_dir)

    @property
    def fail_open(self) -> bool:
        """Whether allocations go on while no daemon runs."""
        return self.fail_policy == "open"

    def of_device(self, uuid: GpuUuid, index: int) -> DeviceConfig:
        """Return what holds for one device: what is set for its UUID, then for its index, then for all."""
        own = {**self.devices.get(str(index), {}), **self.devices.get(uuid, {})}
        return DeviceConfig(
            **{key.attribute: own.get(key.attribute, getattr(self, key.attribute)) for key in KEYS if key.per_device}
        )

    def values(self) -> dict[str, Any]:
        """Return every setting by its full name: the keys in their order, then those of single GPUs, then groups'."""
        values = {key.name: getattr(self, key.attribute) for key in KEYS}
        for device, own in self.devices.items():
            values |= {f"{DEVICE_TABLE}.{device}.{name}": value for name, value in own.items()}
        for group, limits in self.groups.items():
            values |= {of_groups.full_name(group, gpu): limit for gpu, limit in limits.items()}
        return values

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> DaemonConfig:
        """Make the settings of values by full name; what is not named has its default."""
        attributes: dict[str, Any] = {}
        devices: dict[str, dict[str, Any]] = {}
        groups: dict[GroupName, dict[str, Any]] = {}
        for name, value in values.items():
            of_group = of_groups.split_name(name)
            device, key = find_key(name)
            if of_group is not None:
                groups.setdefault(of_group[0], {})[of_group[1]] = value
            elif device is None:
                attributes[key.attribute] = value
            else:
                devices.setdefault(device, {})[key.attribute] = value
        return cls(**attributes, devices=devices, groups=groups)

    def contradictions(self) -> list[str]:
        """Return what cannot hold at the same time, each as a sentence."""
        found = [
            f"on_{kind} is {NOTIFY}, and there is no notify_command to run"
            for kind in FindingKind
            if self.action(kind) == NOTIFY and not self.notify_command
        ]
        if self.metrics_listen is not None and not (self.metrics_listen.loopback or self.metrics_remote):
            found.append(
                f"metrics_listen {self.metrics_listen} can be reached from other machines, without password or "
                "encryption: listen on 127.0.0.1, or set metrics_remote = true if that is meant"
            )
        for device, own in {"": {}, **self.devices}.items():
            limit = own.get("default_limit", self.default_limit)
            guarantee = own.get("default_guarantee", self.default_guarantee)
            if not (isinstance(limit, Amount) and isinstance(guarantee, Amount)):
                continue
            if bool(limit.share_ppm) == bool(guarantee.share_ppm) and guarantee.of(2**53) > limit.of(2**53):
                of_device = f" for GPU {device}" if device else ""
                found.append(f"default_guarantee {guarantee} is more than default_limit {limit}{of_device}")
        return found


KEYS: Final[tuple[Key, ...]] = tuple(
    Key(
        name=each.metadata["name"] or each.name,
        attribute=each.name,
        form=each.metadata["form"],
        default=each.default,
        meaning=each.metadata["meaning"],
        live=each.metadata["live"],
        per_device=each.metadata["per_device"],
        opposite=each.metadata["opposite"],
    )
    for each in fields(DaemonConfig)
    if each.metadata
)
BY_NAME: Final[Mapping[str, Key]] = {key.name: key for key in KEYS}
GROUP_KEY: Final = Key(
    name=of_groups.GROUP_LIMIT,
    attribute=of_groups.GROUP_LIMIT,
    form=forms.GROUP_LIMIT,
    default=NO_LIMIT,
    meaning="The most that the containers of a group may hold together on a GPU. A share is one of the GPU's memory.",
    live=True,
    per_device=True,
    opposite=None,
)
"""The key of a group's own table; it is no option of `convgpu daemon`."""


def find_key(name: str) -> tuple[str | None, Key]:
    """Return the device and the key of a setting's full name, such as `reserve` or `device.0.reserve`.

    Of a limit of a group, the device is that for which it holds, and None where it holds for all.

    Raises:
        KeyError: No such setting.
    """
    of_group = of_groups.split_name(name)
    if of_group is not None:
        return of_group[1] or None, GROUP_KEY
    table, dot, rest = name.partition(".")
    if not dot:
        return None, BY_NAME[name]
    device, _, plain = rest.rpartition(".")
    if table != DEVICE_TABLE or not device:
        raise KeyError(name)
    return device, BY_NAME[plain]


def written(name: str, value: Any) -> forms.Scalar:
    """Return a setting's value as it is written in the file."""
    return find_key(name)[1].form.write(value)
