# SPDX-License-Identifier: Apache-2.0
"""Write docs/analysis.md and its pictures from the recorded run; with --check only tell if the text is up to date.

A worked analysis, to be copied from: it knows nothing of ConvGPU but the commands `convgpu audit` and `convgpu replay`,
and works on the tables that `convgpu audit export` makes.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from string import Template
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / "docs" / "analysis"
PAGE: Final = ROOT / "docs" / "analysis.md"
LOG: Final = FOLDER / "run.jsonl.gz"
KEY: Final = FOLDER / "audit.key.pub"
NEAR: Final = 0.9
SECOND_NS: Final = 1e9
GIB: Final = 2**30
ALGORITHMS: Final = "fifo,best-fit,recent-use,random,priority,fair"


def convgpu(*words: str | Path) -> str:
    """Run a command of ConvGPU, of the package that this Python has."""
    command = [sys.executable, "-m", "convgpu.cli.main", *map(str, words)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


# [tables]
def open_tables(folder: Path) -> sqlite3.Connection:
    convgpu("audit", "export", LOG, "--to", "sqlite", "-o", folder / "run.sqlite")
    database = sqlite3.connect(folder / "run.sqlite")
    database.row_factory = sqlite3.Row
    return database


# [near]
HELD_OVER_TIME: Final = """
    SELECT c.name, h.time_ns AS begin_ns, h.held_bytes, h.limit_bytes,
           lead(h.time_ns, 1, c.gone_ns) OVER (PARTITION BY h.container_id ORDER BY h.seq) AS end_ns
    FROM holdings h JOIN containers c USING (container_id)
"""
NEAR_LIMIT: Final = f"""
    SELECT name, sum((end_ns - begin_ns) * (held_bytes >= {NEAR} * limit_bytes)) / 1e9 AS near_s
    FROM ({HELD_OVER_TIME}) GROUP BY name
"""


# [waits]
def united_s(waits: list[tuple[int, int]]) -> float:
    """Return the time that intervals cover together: a container with two requests that wait waits once."""
    covered, last = 0, 0
    for begin, end in sorted(waits):
        covered += max(0, end - max(begin, last))
        last = max(last, end)
    return covered / SECOND_NS


# [fairness]
def jain(shares: list[float]) -> float:
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


# [end]
def containers_of(database: sqlite3.Connection) -> list[dict[str, Any]]:
    near_s = {row["name"]: row["near_s"] for row in database.execute(NEAR_LIMIT)}
    found = []
    for row in database.execute("SELECT * FROM containers ORDER BY seen_ns"):
        one = (row["container_id"],)
        waits = [tuple(wait) for wait in database.execute(
            "SELECT began_ns, ended_ns FROM suspensions WHERE container_id = ?", one)]  # fmt: skip
        decided = dict(database.execute(
            "SELECT decision, count(*) FROM decisions WHERE container_id = ? GROUP BY decision", one))  # fmt: skip
        reasons = [each["reason"] for each in database.execute(
            "SELECT reason FROM decisions WHERE container_id = ? AND decision = 'denied'", one)]  # fmt: skip
        stay_s = (row["gone_ns"] - row["seen_ns"]) / SECOND_NS
        waited_s = united_s(waits)
        found.append(
            {
                "name": row["name"],
                "kind": row["name"].partition("-")[0],
                "stay_s": stay_s,
                "near": near_s.get(row["name"], 0.0) / stay_s,
                "waited_s": waited_s,
                "progress": (stay_s - waited_s) / stay_s,
                "granted": decided.get("granted", 0) + decided.get("resumed", 0),
                "denied": decided.get("denied", 0),
                "reasons": reasons,
            }
        )
    return found


def kinds_table(containers: list[dict[str, Any]]) -> str:
    lines = [
        "| kind | containers | mean stay | near its limit | mean wait | denied | denial rate |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(each["kind"] for each in containers):
        some = [each for each in containers if each["kind"] == kind]
        near = sum(each["near"] * each["stay_s"] for each in some) / sum(each["stay_s"] for each in some)
        denied, granted = (sum(each[name] for each in some) for name in ("denied", "granted"))
        lines.append(
            f"| {kind} | {len(some)} | {mean([each['stay_s'] for each in some]):.1f} s | {near:.1%} | "
            f"{mean([each['waited_s'] for each in some]):.1f} s | {denied} | {denied / (denied + granted):.1%} |"
        )
    return "\n".join(lines)


def what_if() -> list[dict[str, Any]]:
    return json.loads(convgpu("replay", LOG, "--algorithm", ALGORITHMS, "--format", "json"))


def what_if_table(results: list[dict[str, Any]]) -> str:
    lines = [
        "| algorithm | finish | mean wait | worst wait | failed | used | fairness |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        summary = result["summary"]
        lines.append(
            f"| {result['settings']['algorithm']} | {summary['finish_s']:.1f} s "
            f"| {summary['mean_suspended_s']:.2f} s | {summary['worst_suspended_s']:.1f} s "
            f"| {summary['failed']} | {result['used']:.1%} | {summary['jain']:.3f} |"
        )
    return "\n".join(lines)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def code(marker: str, until: str) -> str:
    """Return a part of this file, so that what is shown is what was run."""
    text = Path(__file__).read_text()
    return text.partition(f"# [{marker}]\n")[2].partition(f"# [{until}]\n")[0].strip()


def draw(database: sqlite3.Connection, containers: list[dict[str, Any]], results: list[dict[str, Any]]) -> None:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style = {"svg.hashsalt": "convgpu", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}

    def picture(name: str, height: float, panels: int) -> tuple[Any, Any]:
        figure = Figure(figsize=(9, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, panels, squeeze=False)[0]
        return (lambda: figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})), axes

    with mpl.rc_context(style):
        save, (axis,) = picture("held", 3.2, 1)
        begin_ns = database.execute("SELECT min(time_ns) FROM events").fetchone()[0]
        rows = list(database.execute("SELECT * FROM holdings ORDER BY seq"))
        held: dict[str, int] = {each["container_id"]: 0 for each in rows}
        at, stacks = [0.0], {each: [0.0] for each in held}
        for row in rows:
            held[row["container_id"]] = row["held_bytes"]
            at.append((row["time_ns"] - begin_ns) / SECOND_NS)
            for each, value in held.items():
                stacks[each].append(value / GIB)
        axis.stackplot(at, *stacks.values(), step="post", colors=mpl.colormaps["tab20"].colors)
        capacity = database.execute("SELECT capacity_bytes FROM capacities ORDER BY seq DESC").fetchone()[0] / GIB
        axis.axhline(capacity, color="black", linestyle="--", linewidth=0.8)
        axis.set(title="What all containers held (ledger); dashed: the capacity", xlabel="seconds", ylabel="GiB")
        axis.margins(x=0)
        save()

        save, (left, right) = picture("waits", 4.8, 2)
        names = [each["name"] for each in containers]
        left.barh(names, [each["waited_s"] for each in containers], color="#d55e00")
        left.set(title="Time in which it waited, s")
        right.barh(names, [each["near"] * 100 for each in containers], color="#0072b2")
        right.set(title="Part of its stay near its limit, %")
        right.yaxis.set_visible(False)
        for each in (left, right):
            each.invert_yaxis()
        save()

        save, (left, right) = picture("what-if", 2.4, 2)
        names = [each["settings"]["algorithm"] for each in results]
        left.barh(names, [each["summary"]["mean_suspended_s"] for each in results], color="#d55e00")
        left.set(title="Mean wait, s")
        right.barh(names, [each["summary"]["jain"] for each in results], color="#0072b2")
        right.set(title="Jain's index", xlim=(0, 1))
        right.yaxis.set_visible(False)
        for each in (left, right):
            each.invert_yaxis()
        save()


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        verdict = json.loads(convgpu("audit", "verify", LOG, "--key", KEY, "--format", "json"))
        convgpu("replay", LOG, "--check")
        database = open_tables(Path(folder))
        containers = containers_of(database)
        results = what_if()
        by_wait = sorted(results, key=lambda result: result["summary"]["mean_suspended_s"])
        reasons = [reason for each in containers for reason in each["reasons"]]
        denied, granted = len(reasons), sum(each["granted"] for each in containers)
        one = {
            table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("losses", "findings")
        }
        text = Template((FOLDER / "analysis.md.template").read_text()).substitute(
            records=verdict["records"],
            seals=verdict["seals"],
            head=verdict["head"],
            first=verdict["first_ts"][:19],
            containers=len(containers),
            simulated="simulated" if database.execute("SELECT simulated FROM runs").fetchone()[0] else "real",
            losses=one["losses"],
            findings=one["findings"],
            tables_code=code("tables", "near"),
            near_code=code("near", "waits"),
            waits_code=code("waits", "fairness"),
            fairness_code=code("fairness", "end"),
            kinds=kinds_table(containers),
            waiters=sum(each["waited_s"] > 0 for each in containers),
            worst=max(each["waited_s"] for each in containers).__format__(".1f"),
            worst_name=max(containers, key=lambda each: each["waited_s"])["name"],
            granted=granted,
            denied=denied,
            rate=f"{denied / (denied + granted):.1%}",
            reasons=", ".join(f"{reasons.count(each)} `{each}`" for each in sorted(set(reasons))),
            jain=f"{jain([each['progress'] for each in containers]):.3f}",
            what_if=what_if_table(results),
            recorded=by_wait[0]["workload"].partition("recorded under ")[2].partition(",")[0],
            least=by_wait[0]["settings"]["algorithm"],
            least_s=f"{by_wait[0]['summary']['mean_suspended_s']:.1f}",
            most=by_wait[-1]["settings"]["algorithm"],
            most_s=f"{by_wait[-1]['summary']['mean_suspended_s']:.1f}",
        )
        if sys.argv[1:] == ["--check"]:
            if PAGE.read_text() == text:
                return 0
            print("docs/analysis.md is out of date: run python tools/analysis.py", file=sys.stderr)
            return 1
        PAGE.write_text(text)
        draw(database, containers, results)
        database.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
