# SPDX-License-Identifier: Apache-2.0
"""What is kept of the log for those who look on, and what a slow reader loses."""

from __future__ import annotations

import asyncio

from convgpu.audit.builder import Event
from convgpu.core.events import TOPICS, EventFilter, topic_of
from convgpu.daemon.event_feed import KEPT_GRANTS, KEPT_OTHERS, NOT_TOLD, WAITING_EVENTS, EventFeed

ALL = EventFilter()


def event(type_name="limit.set", container=None, **fields):
    named = {"id": 64 * container[0], "name": container} if container else None
    return Event(type_name, f"{type_name} {container}", {**fields, **({"container": named} if named else {})}, 10**9, 7)


async def told(stream):
    return [each async for batch in stream for each in batch.events]


def last(feed, wanted=ALL, count=10**6):
    return asyncio.run(told(feed.stream(wanted, count, follow=False)))


def test_thousands_of_grants_push_nothing_else_out():
    feed = EventFeed()
    feed.note([event("decision.denied", "alpha")], 1)
    feed.note([event("decision.granted", "alpha")] * 5000, 5001)
    kept = last(feed)
    assert [each.type for each in kept] == ["decision.denied"] + KEPT_GRANTS * ["decision.granted"]
    assert [each.seq for each in kept] == [1, *range(5002 - KEPT_GRANTS, 5002)]


def test_no_more_is_kept_than_said():
    feed = EventFeed()
    for seq in range(1, KEPT_OTHERS + 101):
        feed.note([event()], seq)
    assert [each.seq for each in last(feed)] == list(range(101, KEPT_OTHERS + 101))


def test_who_does_not_want_grants_gets_none():
    feed = EventFeed()
    feed.note([event("decision.granted", "alpha"), event("decision.resumed", "alpha")], 2)
    assert [each.type for each in last(feed, EventFilter(grants=False))] == ["decision.resumed"]


def test_figures_are_no_news():
    feed = EventFeed()
    feed.note([event(name) for name in sorted(NOT_TOLD)] + [event()], 6)
    assert [(each.type, each.seq) for each in last(feed)] == [("limit.set", 6)]


def test_what_the_log_could_not_take_is_told_without_a_number():
    feed = EventFeed()
    feed.note([event("decision.denied", "alpha")], None)
    assert [(each.type, each.seq) for each in last(feed)] == [("decision.denied", None)]


def test_a_slow_reader_loses_events_counted_and_others_none():
    async def scene():
        feed = EventFeed()
        slow, quick = feed.stream(ALL, 0, follow=True), feed.stream(ALL, 0, follow=True)
        assert (await anext(slow)).events == (await anext(quick)).events == ()
        quick_seen = slow_seen = lost = 0
        for seq in range(1, WAITING_EVENTS + 501):
            feed.note([event()], seq)
            if seq % 200 == 0:
                quick_seen += len((await anext(quick)).events)
        while quick_seen < WAITING_EVENTS + 500:
            batch = await anext(quick)
            assert batch.lost == 0
            quick_seen += len(batch.events)
        while slow_seen + lost < WAITING_EVENTS + 500:
            batch = await anext(slow)
            slow_seen += len(batch.events)
            lost += batch.lost
        assert (slow_seen, lost) == (WAITING_EVENTS, 500)
        await slow.aclose()
        await quick.aclose()

    asyncio.run(scene())


def test_a_follower_gets_what_was_last_and_then_each_once():
    async def scene():
        feed = EventFeed()
        feed.note([event(container="alpha"), event(container="beta")], 2)
        stream = feed.stream(EventFilter(container_id=64 * "b"), 5, follow=True)
        assert [each.seq for each in (await anext(stream)).events] == [2]
        feed.note([event(container="beta"), event(container="alpha")], 4)
        assert [each.seq for each in (await anext(stream)).events] == [3]
        await stream.aclose()

    asyncio.run(scene())


def test_a_container_is_found_by_what_was_told_about_it():
    feed = EventFeed()
    feed.note([event(container="alpha"), event(container="beta"), event()], 3)
    assert feed.container_called("alpha") == 64 * "a"
    assert feed.container_called("bb") == 64 * "b"
    assert feed.container_called("gamma") is None
    assert feed.container_called("") is None


def test_every_type_has_a_topic():
    assert topic_of("decision.denied") == "decision"
    assert topic_of("reconcile") == topic_of("log.repaired") == "other"
    assert topic_of("config.changed") in TOPICS
