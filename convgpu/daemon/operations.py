# SPDX-License-Identifier: Apache-2.0
"""What the control socket can be asked for: each operation's arguments, and who carries it out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Any

from convgpu.api import (
    ConfigChange,
    ConfigStatus,
    ContainerArguments,
    GroupArguments,
    GroupChange,
    GroupSetArguments,
    LimitChange,
    LimitInfo,
    LimitSetArguments,
    NoArguments,
    QueueArguments,
    StartArguments,
)
from convgpu.core.annotation import AnnotateArguments, Annotated, check_note
from convgpu.core.detail import ContainerDetail, DetailArguments
from convgpu.core.events import TOPICS, EventBatch, EventFilter, EventsArguments
from convgpu.core.groups import parse_group
from convgpu.core.identity import ContainerId
from convgpu.core.starting import (
    AdmitAnswer,
    AdmitArguments,
    PrepareCreateAnswer,
    PrepareCreateArguments,
    PrepareRunAnswer,
    PrepareRunArguments,
)
from convgpu.core.status import GroupStatus, Snapshot, WaitingStatus
from convgpu.core.trace import TraceArguments, TraceBatch, TraceFilter
from convgpu.daemon.admissions import Admissions
from convgpu.daemon.containers import Containers
from convgpu.daemon.control import Caller, Operation, Stream
from convgpu.daemon.groups import Groups
from convgpu.daemon.journal import Journal
from convgpu.daemon.observer import Observer
from convgpu.daemon.overview import Overview
from convgpu.daemon.registry import GuardedContainer, Registry
from convgpu.daemon.settings import Settings
from convgpu.daemon.starts import Starts
from convgpu.daemon.tracer import Tracer
from convgpu.errors import AuditError, UnknownContainerError, UsageError


class Operations:
    """The operations, one method each.

    Args:
        resolve: Finds a guarded container by what a person calls it, or begins to guard a running one.
    """

    def __init__(
        self,
        registry: Registry,
        containers: Containers,
        groups: Groups,
        admissions: Admissions,
        starts: Starts,
        settings: Settings,
        overview: Overview,
        observer: Observer,
        journal: Journal,
        tracer: Tracer,
        resolve: Callable[[str], Awaitable[GuardedContainer]],
    ) -> None:
        self._registry = registry
        self._containers = containers
        self._groups = groups
        self._admissions = admissions
        self._starts = starts
        self._settings = settings
        self._overview = overview
        self._observer = observer
        self._journal = journal
        self._tracer = tracer
        self._resolve = resolve

    def by_name(self) -> dict[str, Operation | Stream]:
        """Return every operation under the name by which `convgpu.api` asks for it."""
        return {
            "snapshot": Operation(NoArguments, self._snapshot),
            "limit_set": Operation(LimitSetArguments, self._limit_set),
            "limit_get": Operation(ContainerArguments, self._limit_get),
            "limit_list": Operation(NoArguments, self._limit_list),
            "limit_remove": Operation(ContainerArguments, self._limit_remove),
            "group_set": Operation(GroupSetArguments, self._group_set),
            "group_get": Operation(GroupArguments, self._group_get),
            "group_list": Operation(NoArguments, self._group_list),
            "group_remove": Operation(GroupArguments, self._group_remove),
            "queue": Operation(QueueArguments, self._queue),
            "trace": Stream(TraceArguments, self._trace),
            "container_detail": Operation(DetailArguments, self._container_detail),
            "events": Stream(EventsArguments, self._events),
            "admit": Operation(AdmitArguments, self._admit),
            "check_start": Operation(StartArguments, self._check_start),
            "prepare_run": Operation(PrepareRunArguments, self._prepare_run),
            "prepare_create": Operation(PrepareCreateArguments, self._prepare_create),
            "annotate": Operation(AnnotateArguments, self._annotate),
            "config_show": Operation(NoArguments, self._config_show),
            "config_reload": Operation(NoArguments, self._config_reload),
        }

    async def snapshot(self) -> Snapshot:
        """Return everything as it is now, measured afresh."""
        seen = await self._observer.look()
        status = await self._observer.status()
        return self._overview.snapshot(seen, status, self._journal.head)

    async def _snapshot(self, _: NoArguments, __: Caller) -> Snapshot:
        return await self.snapshot()

    async def _limit_set(self, arguments: LimitSetArguments, caller: Caller) -> LimitChange:
        guarded = await self._resolve(arguments.container)
        return self._containers.set_limit(guarded, arguments.limit_bytes, arguments.guarantee_bytes, caller.user_id)

    async def _limit_get(self, arguments: ContainerArguments, _: Caller) -> LimitInfo:
        return self._containers.info(self._registry.resolve(arguments.container))

    async def _limit_list(self, _: NoArguments, __: Caller) -> tuple[LimitInfo, ...]:
        return tuple(self._containers.info(guarded) for guarded in self._registry.containers.values())

    async def _limit_remove(self, arguments: ContainerArguments, caller: Caller) -> LimitChange:
        return self._containers.remove_limit(self._registry.resolve(arguments.container), caller.user_id)

    async def _group_set(self, arguments: GroupSetArguments, caller: Caller) -> GroupChange:
        group = parse_group(arguments.group)
        return self._groups.set_limit(group, arguments.limit_bytes, arguments.gpu, caller.user_id)

    async def _group_get(self, arguments: GroupArguments, _: Caller) -> GroupStatus:
        return self._groups.get(parse_group(arguments.group))

    async def _group_list(self, _: NoArguments, __: Caller) -> tuple[GroupStatus, ...]:
        return self._groups.all()

    async def _group_remove(self, arguments: GroupArguments, caller: Caller) -> GroupChange:
        return self._groups.remove_limit(parse_group(arguments.group), arguments.gpu, caller.user_id)

    async def _queue(self, arguments: QueueArguments, _: Caller) -> tuple[WaitingStatus, ...]:
        named = arguments.container
        return self._overview.waiting.explained(None if named is None else self._registry.resolve(named).container_id)

    def _trace(self, arguments: TraceArguments, _: Caller) -> AsyncGenerator[TraceBatch, None]:
        named = arguments.container
        container = None if named is None else self._registry.resolve(named).container_id
        wanted = TraceFilter(
            container_id=container, min_bytes=arguments.min_bytes, kind=arguments.kind, stacks=arguments.stacks
        )
        return self._tracer.stream(wanted)

    async def _container_detail(self, arguments: DetailArguments, _: Caller) -> ContainerDetail:
        _check_topics(arguments.topics)
        container = ContainerId(self._past_container(arguments.container))
        guarded = self._registry.containers.get(container)
        self._journal.flush()
        wanted = EventFilter(container_id=container, topics=frozenset(arguments.topics))
        return ContainerDetail(
            container_id=container,
            name=self._tracer.name_of(container),
            limit_source=None if guarded is None else guarded.source,
            sizes=self._tracer.sizes.of(container) if self._observer.running else None,
            waiting=self._overview.waiting.explained(container),
            decisions=self._journal.feed.last(wanted, arguments.decisions),
        )

    def _events(self, arguments: EventsArguments, _: Caller) -> AsyncGenerator[EventBatch, None]:
        _check_topics(arguments.topics)
        container = None if arguments.container is None else self._past_container(arguments.container)
        self._journal.flush()
        topics = frozenset(arguments.topics)
        wanted = EventFilter(container_id=container, topics=topics, grants=arguments.grants)
        return self._journal.feed.stream(wanted, arguments.last, follow=arguments.follow)

    def _past_container(self, text: str) -> str:
        """Find a container that is there, one that is only looked at, or one that something was told about."""
        try:
            return self._registry.resolve(text).container_id
        except UnknownContainerError:
            found = self._tracer.stranger_called(text) or self._journal.feed.container_called(text)
            if found is None:
                raise
            return found

    async def _admit(self, arguments: AdmitArguments, _: Caller) -> AdmitAnswer:
        return await self._admissions.admit(arguments)

    async def _check_start(self, arguments: StartArguments, _: Caller) -> NoArguments:
        group = None if arguments.group is None else parse_group(arguments.group)
        self._containers.check_start(arguments.limit_bytes, arguments.guarantee_bytes, group)
        return NoArguments()

    async def _prepare_run(self, arguments: PrepareRunArguments, _: Caller) -> PrepareRunAnswer:
        return await self._starts.prepare_run(arguments)

    async def _prepare_create(self, arguments: PrepareCreateArguments, _: Caller) -> PrepareCreateAnswer:
        return await self._starts.prepare_create(arguments)

    async def _annotate(self, arguments: AnnotateArguments, caller: Caller) -> Annotated:
        fields: dict[str, Any] = {"text": check_note(arguments.text), "by_uid": caller.user_id}
        if arguments.container is not None:
            fields["container"] = self._journal.container(self._registry.resolve(arguments.container).container_id)
        seq = self._journal.write("note", **fields)
        if seq is None:
            raise AuditError("the audit log cannot be written now: the note is lost", next_step="run `convgpu doctor`")
        head = self._journal.head
        return Annotated(seq=seq, head_seq=head.seq, head_hash=head.hash)

    async def _config_show(self, _: NoArguments, __: Caller) -> ConfigStatus:
        return self._settings.status()

    async def _config_reload(self, _: NoArguments, caller: Caller) -> ConfigChange:
        return self._settings.reload(caller.user_id)


def _check_topics(topics: Iterable[str]) -> None:
    unknown = sorted(set(topics) - set(TOPICS))
    if unknown:
        raise UsageError(f"there are no events about {', '.join(unknown)}", next_step=f"one of {', '.join(TOPICS)}")
