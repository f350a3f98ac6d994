# SPDX-License-Identifier: Apache-2.0
"""The figures of a log that can be told by hand, and the page that is made of them."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner
from scene import ALPHA, BETA, SECOND, Log, scene

from convgpu.analysis import charts
from convgpu.analysis.export import rows_of
from convgpu.analysis.study import Study, study, united
from convgpu.cli.main import main
from convgpu.core.units import GIB


def studied(log: Log) -> Study:
    return study(rows_of(json.loads(line) for line in log.lines))


def test_time_near_the_limit_and_mean_are_over_the_stay() -> None:
    alpha, beta = studied(scene()).containers.values()
    (device,) = alpha.devices.values()
    assert alpha.near_limit(device) == 0.5, "4 of 4 GiB from 50 to 100 s, of 100 s"
    assert alpha.mean_held_bytes(device) == (40 * GIB + 50 * 4 * GIB) // 100
    (device,) = beta.devices.values()
    assert beta.near_limit(device) == 0.0, "7 of 8 GiB are below 90 %"


def test_a_raised_limit_counts_from_then_on() -> None:
    log = scene()
    limits = {"old_limit_bytes": 8 * GIB, "limit_bytes": 7 * GIB, "guarantee_bytes": 0}
    log.add(110, "limit.set", container=BETA, gpu={"id": "GPU-0", "index": 0}, **limits)
    log.add(120, "daemon.stop")
    beta = studied(log).containers[BETA["id"]]
    (device,) = beta.devices.values()
    assert beta.near_limit(device) == pytest.approx(10 / 100), "from 110 to 120 s, of 20 to 120 s"


def test_waiting_denials_and_fairness() -> None:
    found = studied(scene())
    alpha, beta = found.containers.values()
    assert (alpha.waited_ns, beta.waited_ns) == (0, 40 * SECOND)
    assert (alpha.progress, beta.progress) == (1.0, None), "beta runs still"
    assert found.jain == 1.0
    assert beta.denial_rate == 0.5
    assert found.denial_rate == 0.25
    assert beta.reasons == {"limit": 1}
    assert (found.begin_ns, found.end_ns) == (alpha.stays[0][0], beta.stays[0][1])


def test_fairness_is_jain_s_index_over_progress() -> None:
    log = scene().add(120, "container.gone", container=BETA)
    found = studied(log)
    progress = [each.progress for each in found.containers.values()]
    assert progress == [1.0, 0.6], "beta waited 40 of 100 s"
    assert found.jain == pytest.approx(1.6**2 / (2 * (1 + 0.36)), abs=1e-6)


def test_two_waits_at_a_time_are_one_wait() -> None:
    assert united([(5, 7), (0, 3), (2, 4), (7, 9)]) == [(0, 4), (5, 9)]
    log = scene()
    log.decide(40, "suspended", "9", GIB, container=BETA, process={"pid": 8, "start_ticks": 70})
    log.decide(75, "resumed", "9", GIB, container=BETA, process={"pid": 8, "start_ticks": 70})
    assert studied(log).containers[BETA["id"]].waited_ns == 45 * SECOND


def test_a_start_that_waited_is_part_of_the_stay() -> None:
    log = Log().start()
    log.add(10, "start.suspended", container=ALPHA, guarantee_bytes=GIB)
    log.add(40, "start.admitted", container=ALPHA, waited_ns=30 * SECOND)
    log.container(40, ALPHA)
    log.add(70, "container.gone", container=ALPHA)
    (alpha,) = studied(log).containers.values()
    assert (alpha.stay_ns, alpha.waited_ns, alpha.progress) == (60 * SECOND, 30 * SECOND, 0.5)


# The page.


class Links(HTMLParser):
    """Whatever a page would load, and its texts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action") and value and not value.startswith("#"):
                self.loads.append(value)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    log = scene().write(folder)
    done = CliRunner().invoke(main, ["audit", "report", str(log), "-o", str(folder / "r.html"), "--title", "A <b> & c"])
    assert done.exit_code == 0, done.stderr
    return (folder / "r.html").read_text()


def test_the_page_loads_nothing_and_is_well_formed(page: str) -> None:
    links = Links()
    links.feed(page)
    assert links.open == []
    assert links.loads == []
    assert not {"script", "link", "img", "iframe"} & set(links.tags)
    assert "@import" not in page
    assert "url(" not in re.sub(r"url\(#", "", page)
    assert links.tags.count("svg") == 4


def test_the_page_has_the_figures(page: str) -> None:
    assert "A &lt;b&gt; &amp; c" in page
    assert "The log verifies" in page
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page)
    alpha = cells.index("alpha")
    assert cells[alpha : alpha + 11] == [
        "alpha", "0", "4GiB", "4GiB", "2.40GiB", "50.0 %", "1 min 40 s", "0.0 s", "2", "0", "0.0 %",
    ]  # fmt: skip
    beta = cells.index("beta")
    assert cells[beta + 7 : beta + 11] == ["40.0 s", "1", "1", "50.0 %"]
    assert "1 because of <code>limit</code>" in page
    assert "half way: alpha is large" in page
    assert "witness: ring full" in page


def test_pictures_take_the_page_s_colours(page: str) -> None:
    assert "var(--ink)" in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert "#000000" not in svg, "nothing is black on a dark page"
        assert "#ffffff" not in svg


def test_the_same_log_gives_the_same_page(page: str, tmp_path: Path) -> None:
    log = scene().write(tmp_path)
    CliRunner().invoke(main, ["audit", "report", str(log), "-o", str(tmp_path / "r.html"), "--title", "A <b> & c"])
    assert (tmp_path / "r.html").read_text() == page


def test_a_page_of_a_changed_log_says_so_first(tmp_path: Path) -> None:
    log = scene().write(tmp_path)
    log.write_bytes(log.read_bytes().replace(b"half way", b"half-way"))
    CliRunner().invoke(main, ["audit", "report", str(log), "-o", str(tmp_path / "r.html")])
    text = (tmp_path / "r.html").read_text()
    assert "The log does not verify: 1 problem." in text
    assert "record 9 was changed" in text


def test_a_page_with_pseudonyms_names_nobody(tmp_path: Path) -> None:
    log = scene().write(tmp_path)
    key = tmp_path / "key"
    CliRunner().invoke(main, ["audit", "keygen", "--pseudonyms", str(key)])
    CliRunner().invoke(main, ["audit", "report", str(log), "-o", str(tmp_path / "r.html"), "--pseudonyms", str(key)])
    text = (tmp_path / "r.html").read_text()
    assert not re.search(r"\b(alpha|beta|half way)\b", text)
    assert "container-" in text


def test_an_empty_log_has_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").write_bytes(b"")
    done = CliRunner().invoke(main, ["audit", "report", str(tmp_path / "audit.jsonl"), "-o", str(tmp_path / "r.html")])
    assert done.exit_code == 0, done.output
    assert "an empty log" in (tmp_path / "r.html").read_text()


def test_without_matplotlib_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "find_spec", lambda name: None)
    log = scene().write(tmp_path)
    done = CliRunner().invoke(main, ["audit", "report", str(log), "-o", str(tmp_path / "r.html")], prog_name="convgpu")
    assert done.exit_code == 6
    assert "convgpu[plot]" in done.stderr


def test_of_a_crowd_those_that_held_most_are_shown() -> None:
    log = Log().start()
    for number in range(30):
        container = {"id": f"{number:064x}", "name": f"c{number}", "image": "i"}
        log.container(number, container, limit_bytes=8 * GIB)
        process = {"pid": number + 1, "start_ticks": 1}
        log.decide(number, "granted", str(number), (number + 1) * 2**20, container=container, process=process)
    shown = charts.shown(studied(log))
    assert [each.name for each in shown] == [f"c{number}" for number in range(6, 30)]


def test_a_long_line_keeps_its_highest_and_lowest_points() -> None:
    from convgpu.analysis.charts import _thinned
    from convgpu.analysis.study import Line

    line = Line()
    for number in range(100_000):
        line.add(number, 10**9 if number == 54_321 else -5 if number == 99 else number % 7)
    at, values = _thinned(line)
    assert len(at) < 2100
    assert (max(values), min(values), at[0], at[-1]) == (10**9, -5, 0, 99_999)
