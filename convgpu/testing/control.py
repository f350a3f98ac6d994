# SPDX-License-Identifier: Apache-2.0
"""A control socket without a daemon: it serves a snapshot, prepares starts, and keeps limits as the daemon would."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from convgpu.api import (
    ConfigChange,
    ConfigStatus,
    ContainerArguments,
    DeviceLimit,
    GroupArguments,
    GroupChange,
    GroupSetArguments,
    LimitChange,
    LimitInfo,
    LimitSetArguments,
    NoArguments,
    QueueArguments,
    SettingChange,
    StartArguments,
)
from convgpu.config.keys import DaemonConfig
from convgpu.config.layers import Layers, differences, merged
from convgpu.config.listing import list_settings
from convgpu.connection import Answer, ErrorAnswer, Request
from convgpu.core.annotation import AnnotateArguments, Annotated, check_note
from convgpu.core.detail import ContainerDetail, DetailArguments
from convgpu.core.events import EventBatch, EventFilter, EventsArguments, LogEvent
from convgpu.core.starting import (
    AdmitAnswer,
    AdmitArguments,
    PrepareCreateAnswer,
    PrepareCreateArguments,
    PrepareRunAnswer,
    PrepareRunArguments,
)
from convgpu.core.status import ContainerStatus, DeviceUsage, Snapshot, WaitingStatus
from convgpu.core.trace import TraceArguments, TraceBatch, TraceFilter
from convgpu.core.units import format_size
from convgpu.errors import ConvgpuError, ProtocolError, QuotaRefusedError, UnknownContainerError
from convgpu.oci.labels import parse_labels
from convgpu.oci.preload import preload_for_content
from convgpu.oci.prepare import RunRequest, prepare_run
from convgpu.oci.run import RunSettings
from convgpu.testing.groups import group_of, remove_group, set_group
from convgpu.testing.images import FakeImages

_LOOK_S: Final = 0.02


class FakeControlServer:
    """Serves `snapshot` on a real Unix socket while the context lasts; set the attribute to change what is served.

    Starts are prepared as the daemon does, with the images of `images`. Limits behave: they are those of the
    snapshot's devices, `limit_set` changes them there, a limit above the capacity of a device is refused, containers
    are found by name, id or prefix. What the daemon alone can do (granting, waiting) is not here.

    Args:
        snapshot: What to serve first.
        path: Where to listen.
        layers: Where its settings come from; `config_reload` reads them again.

    Attributes:
        requests: The operations that were asked for, in order.
        images: The engine's images.
        connections: The connections that were made since the start.
        trace_batches: What a trace tells; it ends after the last of them.
        traced: What was asked of each trace.
        events: What happened; who follows is told what is appended.
        notes: What was put into the log.
        sizes: Histograms of allocations by source, by container id.
        refuse_admission: With what message a start that waits is refused; None: it is admitted at once.
    """

    def __init__(self, snapshot: Snapshot, path: Path, layers: Layers | None = None) -> None:
        self.snapshot = snapshot
        self.requests: list[str] = []
        self.images = FakeImages()
        self.refuse_admission: str | None = None
        self.trace_batches: list[TraceBatch] = []
        self.traced: list[TraceArguments] = []
        self.events: list[LogEvent] = []
        self.notes: list[AnnotateArguments] = []
        self.sizes: dict[str, dict[str, dict[int, int]]] = {}
        self._stopping = threading.Event()
        self._path = path
        self._layers = layers or Layers(None)
        self._settings = self._layers.read()
        self._set_by_command: dict[str, int] = {}
        self.connections: list[socket.socket] = []
        self._server: socketserver.ThreadingUnixStreamServer | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen. After `stop` it may be called again: a daemon that came back."""
        fake = self
        self._stopping.clear()

        class Connection(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                fake.connections.append(self.connection)
                with contextlib.suppress(OSError):  # the client left, or `stop` closed the connection
                    for line in self.rfile:
                        for answer in fake.answers(line):
                            self.wfile.write(answer)

        self._server = socketserver.ThreadingUnixStreamServer(str(self._path), Connection)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the socket and every connection, as a daemon does that is killed."""
        if self._server is None or self._thread is None:
            return
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for connection in self.connections:
            with contextlib.suppress(OSError):  # closed by its client already
                connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()
        self._server = None
        self._path.unlink(missing_ok=True)

    def answers(self, line: bytes) -> Iterator[bytes]:
        """Return the answers to one line, each with its newline: one, and before it what a stream tells."""
        request = msgspec.json.decode(line, type=Request)
        self.requests.append(request.op)
        if request.op == "trace":
            yield from self._trace(request)
        elif request.op == "events":
            yield from self._events(request)
        else:
            yield self._answer(request)

    def _trace(self, request: Request) -> Iterator[bytes]:
        """Tell the batches, those events of them that are asked for."""
        asked = msgspec.json.decode(request.args, type=TraceArguments)
        self.traced.append(asked)
        try:
            container = None if asked.container is None else self._find(asked.container).container_id
        except ConvgpuError as error:
            yield _refusal(request, error)
            return
        wanted = TraceFilter(container_id=container, min_bytes=asked.min_bytes, kind=asked.kind)
        for batch in self.trace_batches:
            events = tuple(each for each in batch.events if wanted.wants(each.kind, each.size_bytes, each.container_id))
            yield _one_of_many(request, replace(batch, events=events))
        yield _end_of_many(request)

    def _events(self, request: Request) -> Iterator[bytes]:
        """Tell the last events and, to one who follows, those that are appended later."""
        asked = msgspec.json.decode(request.args, type=EventsArguments)
        try:
            container = None if asked.container is None else self._find(asked.container).container_id
        except ConvgpuError as error:
            yield _refusal(request, error)
            return
        wanted = EventFilter(container_id=container, topics=asked.topics, grants=asked.grants)
        told = len(self.events)
        before = [each for each in self.events[:told] if wanted.wants(each.type, each.container_id)]
        yield _one_of_many(request, EventBatch(events=tuple(before[len(before) - min(asked.last, len(before)) :])))
        while asked.follow and not self._stopping.wait(_LOOK_S):
            new, told = self.events[told:], len(self.events)
            events = tuple(each for each in new if wanted.wants(each.type, each.container_id))
            yield _one_of_many(request, EventBatch(events=events))
        yield _end_of_many(request)

    def _answer(self, request: Request) -> bytes:
        try:
            operation = self._operations().get(request.op)
            if operation is None:
                raise ProtocolError(f"there is no operation {request.op}")
            argument_type, perform = operation
            ok = perform(msgspec.json.decode(request.args, type=argument_type))
        except ConvgpuError as error:
            return _refusal(request, error)
        return msgspec.json.encode(Answer(id=request.id, ok=msgspec.Raw(msgspec.json.encode(ok)))) + b"\n"

    def _operations(self) -> dict[str, tuple[type[Any], Callable[[Any], Any]]]:
        return {
            "snapshot": (NoArguments, lambda _: self.snapshot),
            "limit_set": (LimitSetArguments, self._limit_set),
            "limit_get": (ContainerArguments, lambda asked: self._info(self._find(asked.container))),
            "limit_list": (NoArguments, lambda _: [self._info(container) for container in self.snapshot.containers]),
            "limit_remove": (ContainerArguments, self._limit_remove),
            "group_set": (GroupSetArguments, lambda asked: self._change_group(set_group(self.snapshot, asked))),
            "group_remove": (GroupArguments, lambda asked: self._change_group(remove_group(self.snapshot, asked))),
            "group_get": (GroupArguments, lambda asked: group_of(self.snapshot, asked.group)),
            "group_list": (NoArguments, lambda _: self.snapshot.groups),
            "queue": (QueueArguments, self._queue),
            "container_detail": (DetailArguments, self._container_detail),
            "annotate": (AnnotateArguments, self._annotate),
            "admit": (AdmitArguments, self._admit),
            "check_start": (StartArguments, self._check_start),
            "prepare_run": (PrepareRunArguments, self._prepare_run),
            "prepare_create": (PrepareCreateArguments, self._prepare_create),
            "config_show": (NoArguments, lambda _: self._config_status()),
            "config_reload": (NoArguments, lambda _: self._config_reload()),
        }

    def _config_status(self) -> ConfigStatus:
        file = None if self._settings.file is None else str(self._settings.file)
        return ConfigStatus(file=file, settings=list_settings(self._settings))

    def _config_reload(self) -> ConfigChange:
        old, wanted = self._settings, self._layers.read()
        self._settings = merged(old, wanted)
        return ConfigChange(
            file=None if wanted.file is None else str(wanted.file),
            changed=_changes(old.config, self._settings.config),
            needs_restart=_changes(self._settings.config, wanted.config),
        )

    def _find(self, name: str) -> ContainerStatus:
        containers = self.snapshot.containers
        found = [each for each in containers if name == each.name or each.container_id.startswith(name)]
        if len(found) != 1:
            raise UnknownContainerError(
                f"{'no container' if not found else 'more than one container'} is called {name}",
                next_step="see `convgpu ps`",
            )
        return found[0]

    def _queue(self, asked: QueueArguments) -> list[WaitingStatus]:
        named = None if asked.container is None else self._find(asked.container).container_id
        return [each for each in self.snapshot.queue if named in (None, each.container_id)]

    def _container_detail(self, asked: DetailArguments) -> ContainerDetail:
        container = self._find(asked.container)
        wanted = EventFilter(container_id=container.container_id, topics=asked.topics)
        decisions = [each for each in self.events if wanted.wants(each.type, each.container_id)]
        return ContainerDetail(
            container_id=container.container_id,
            name=container.name,
            limit_source=self._info(container).source if container.guarded else None,
            sizes=self.sizes.get(container.container_id, {}),
            waiting=tuple(each for each in self.snapshot.queue if each.container_id == container.container_id),
            decisions=tuple(decisions[-asked.decisions :]),
        )

    def _info(self, container: ContainerStatus) -> LimitInfo:
        return LimitInfo(
            container_id=container.container_id,
            name=container.name,
            limit_bytes=_most(container, lambda device: device.limit_bytes),
            guarantee_bytes=_most(container, lambda device: device.guarantee_bytes),
            source="command" if container.container_id in self._set_by_command else "label",
            devices=tuple(
                DeviceLimit(
                    uuid=device.uuid,
                    index=device.index,
                    limit_bytes=device.limit_bytes or 0,
                    guarantee_bytes=device.guarantee_bytes or 0,
                )
                for device in container.devices
            ),
        )

    def _limit_set(self, asked: LimitSetArguments) -> LimitChange:
        container = self._find(asked.container)
        self._check_capacity(asked.limit_bytes)
        old_bytes = _most(container, lambda device: device.limit_bytes)
        self._set_by_command.setdefault(container.container_id, old_bytes)
        return self._change(container, asked.limit_bytes, asked.guarantee_bytes)

    def _limit_remove(self, asked: ContainerArguments) -> LimitChange:
        container = self._find(asked.container)
        before = _most(container, lambda device: device.limit_bytes)
        return self._change(container, self._set_by_command.pop(container.container_id, before))

    def _change_group(self, done: tuple[Snapshot, GroupChange]) -> GroupChange:
        self.snapshot, change = done
        return change

    def _annotate(self, asked: AnnotateArguments) -> Annotated:
        check_note(asked.text)
        if asked.container is not None:
            self._find(asked.container)
        self.notes.append(asked)
        return Annotated(seq=len(self.notes), head_seq=len(self.notes), head_hash="0" * 64)

    def _admit(self, _: AdmitArguments) -> AdmitAnswer:
        if self.refuse_admission is not None:
            raise QuotaRefusedError(self.refuse_admission)
        return AdmitAnswer(waited_ms=0)

    def _check_start(self, asked: StartArguments) -> NoArguments:
        self._check_capacity(asked.limit_bytes)
        return NoArguments()

    def _prepare_run(self, asked: PrepareRunArguments) -> PrepareRunAnswer:
        settings = RunSettings.of(asked.labels)
        self._check_capacity(settings.limit_bytes)
        request = RunRequest(
            settings=settings,
            docker_arguments=asked.docker_arguments,
            label_files=asked.label_files,
            create=asked.create,
            pulled=asked.pulled,
        )
        folder = self._path.parent
        prepared = prepare_run(
            request,
            self.images,
            library=folder / "libconvgpu.so",
            preload_dir=folder / "preload",
            client_dir=folder / "client",
        )
        return PrepareRunAnswer(**asdict(prepared))

    def _prepare_create(self, asked: PrepareCreateArguments) -> PrepareCreateAnswer:
        labels = parse_labels(asked.labels)
        self._check_capacity(labels.limit_bytes or 0)
        folder = self._path.parent
        own = None if asked.preload is None else asked.preload.encode("latin-1")
        preload = preload_for_content(own, folder / "preload", PurePosixPath(asked.library_target))
        return PrepareCreateAnswer(
            library=str(folder / "libconvgpu.so"), preload=str(preload), client_dir=str(folder / "client")
        )

    def _check_capacity(self, limit_bytes: int) -> None:
        for gpu in self.snapshot.gpus:
            if limit_bytes > gpu.capacity_bytes:
                raise QuotaRefusedError(
                    f"the limit {format_size(limit_bytes)} is more than GPU {gpu.index} has for containers, "
                    f"{format_size(gpu.capacity_bytes)}",
                    next_step="choose a smaller limit",
                )

    def _change(self, container: ContainerStatus, limit_bytes: int, guarantee_bytes: int | None = None) -> LimitChange:
        """Set both on every device; the guarantee follows the limit where none is given."""
        kept_bytes = limit_bytes if guarantee_bytes is None else guarantee_bytes
        devices = tuple(
            replace(device, limit_bytes=limit_bytes, guarantee_bytes=kept_bytes) for device in container.devices
        )
        changed = replace(container, devices=devices)
        self.snapshot = replace(
            self.snapshot,
            containers=tuple(changed if each is container else each for each in self.snapshot.containers),
        )
        return LimitChange(
            container_id=container.container_id,
            name=container.name,
            old_limit_bytes=_most(container, lambda device: device.limit_bytes),
            new_limit_bytes=limit_bytes,
            used_bytes=_most(container, lambda device: device.used_bytes),
        )


def _one_of_many(request: Request, told: Any) -> bytes:
    answer = Answer(id=request.id, more=True, ok=msgspec.Raw(msgspec.json.encode(told)))
    return msgspec.json.encode(answer) + b"\n"


def _end_of_many(request: Request) -> bytes:
    return msgspec.json.encode(Answer(id=request.id, ok=msgspec.Raw(b"null"))) + b"\n"


def _refusal(request: Request, error: ConvgpuError) -> bytes:
    answer = ErrorAnswer(kind=type(error).__name__, message=error.message, next_step=error.next_step)
    return msgspec.json.encode(Answer(id=request.id, error=answer)) + b"\n"


def _changes(old: DaemonConfig, new: DaemonConfig) -> tuple[SettingChange, ...]:
    return tuple(SettingChange(key=name, old=was, new=now) for name, was, now in differences(old, new))


def _most(container: ContainerStatus, figure: Callable[[DeviceUsage], int | None]) -> int:
    """Return the highest figure of a container's devices; 0 where none is known."""
    return max((figure(device) or 0 for device in container.devices), default=0)
