# SPDX-License-Identifier: Apache-2.0
"""A study as one page that needs nothing else: no network, no scripts, its pictures inside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Final

from convgpu import __version__
from convgpu.analysis import charts
from convgpu.analysis.study import NEAR_LIMIT_PERCENT, Contained, OnDevice, Study
from convgpu.audit.clock import format_timestamp
from convgpu.audit.verify import VerifyReport
from convgpu.core.units import format_size

_SECOND_NS: Final = 1_000_000_000
_PROBLEMS_SHOWN: Final = 20
_UNKNOWN: Final = "N/A"


def page(study: Study, verified: VerifyReport, title: str) -> str:
    """Return the page as HTML.

    Args:
        study: The figures.
        verified: Whether the log holds together.
        title: What the log is called.
    """
    style = (files("convgpu") / "data" / "report.css").read_text(encoding="utf-8")
    sections = [
        _heading(study, title),
        _verdict(verified),
        _tiles(study),
        _section("Memory against limit", _left_out(study), charts.memory(study)),
        _section("Waiting", "", charts.waiting(study)),
        _section("Decisions", _denials(study), charts.decisions(study)),
        _section("Fairness", _fairness(study), charts.waits_and_progress(study)),
        _section("Containers", "", _containers(study)),
        _section("Losses", _losses(study), ""),
        _section("Findings", "", _findings(study)),
        _section("Notes", "", _notes(study)),
        _section("Runs of the daemon", "", _runs(study)),
        f'<p class="faint">Made by ConvGPU {escape(__version__)} with <code>convgpu audit report</code>.</p>',
    ]
    body = "\n".join(section for section in sections if section)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _section(heading: str, text: str, content: str) -> str:
    if not text and not content:
        return ""
    return f"<section>\n<h2>{heading}</h2>\n{text}\n{content}\n</section>"


def _heading(study: Study, title: str) -> str:
    begin, end = (format_timestamp(time_ns)[:19].replace("T", " ") for time_ns in (study.begin_ns, study.end_ns))
    simulated = ' <span class="bad">simulated GPU</span>' if study.simulated else ""
    span = f"{begin} to {end} UTC, {_duration(study.end_ns - study.begin_ns)}" if study.records else "an empty log"
    return f'<h1>{escape(title)}{simulated}</h1>\n<p class="faint">{span}</p>'


def _verdict(verified: VerifyReport) -> str:
    sealed = f"sealed up to record {verified.sealed_seq}" if verified.seals else "nothing is sealed"
    signed = f", {verified.signed_seals} of {verified.seals} seals signed" if verified.seals else ""
    torn = " The last line is cut short, as a crash leaves it." if verified.torn_bytes else ""
    if verified.ok:
        text = f'<span class="good">The log verifies</span>: {verified.records} records, {sealed}{signed}.{torn}'
    else:
        text = f'<span class="bad">The log does not verify: {_counted(verified.problem_count, "problem")}.</span>{torn}'
    problems = "".join(
        f"<li>{escape(f'{each.file}, ' if each.file else '')}line {each.line}: {escape(each.message)}</li>"
        for each in verified.problems[:_PROBLEMS_SHOWN]
    )
    listed = f"<ul>{problems}</ul>" if problems else ""
    return f"<p>{text} Head <code>{escape(str(verified.head))}</code></p>{listed}"


def _tiles(study: Study) -> str:
    waited_ns = sum(each.waited_ns for each in study.containers.values())
    figures = (
        (str(len(study.containers)), "containers"),
        (str(sum(study.decisions.get(kind, 0) for kind in ("granted", "resumed"))), "requests granted"),
        (str(study.decisions.get("suspended", 0)), "requests had to wait"),
        (_duration(waited_ns), "containers waited, summed"),
        (str(study.decisions.get("denied", 0)), f"denied ({_percent(study.denial_rate)})"),
        (_UNKNOWN if study.jain is None else f"{study.jain:.3f}", "fairness (Jain's index)"),
        (str(sum(loss["count"] for loss in study.rows["losses"])), "losses recorded"),
        (str(len(study.rows["findings"])), "findings"),
    )
    tiles = "".join(f'<div class="tile"><b>{escape(value)}</b><span>{name}</span></div>' for value, name in figures)
    return f'<div class="tiles">{tiles}</div>'


def _left_out(study: Study) -> str:
    more = len([each for each in study.containers.values() if each.devices]) - len(charts.shown(study))
    text = "Held is what the ledger says: granted and not taken back. Freed memory that nobody lacks counts until then."
    if more > 0:
        text += f" Shown are the {charts.MOST_CONTAINERS} containers that held most; {more} are left out."
    return f'<p class="faint">{text}</p>'


def _denials(study: Study) -> str:
    reasons: dict[str, int] = {}
    for each in study.containers.values():
        for reason, count in each.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    if not reasons:
        return "<p>Nothing was denied.</p>"
    listed = ", ".join(f"{count} because of <code>{escape(reason)}</code>" for reason, count in sorted(reasons.items()))
    return f"<p>Denied: {listed}.</p>"


def _fairness(study: Study) -> str:
    if study.jain is None:
        return "<p>No container has ended, so there is no index.</p>"
    return (
        f"<p>Jain's index over the progress of the containers that have ended is <b>{study.jain:.3f}</b>: "
        "1 if all were slowed down alike, 1/n if one got everything.</p>"
    )


def _containers(study: Study) -> str:
    headings = ("container", "GPU", "#limit", "#most held", "#mean held", f"#time at {NEAR_LIMIT_PERCENT} % of limit",
                "#stay", "#waited", "#granted", "#denied", "#denial rate")  # fmt: skip
    rows = [
        row
        for each in study.containers.values()
        for row in ([_container(each, device) for device in each.devices.values()] or [_container(each, None)])
    ]
    return _table(headings, rows)


def _container(each: Contained, device: OnDevice | None) -> tuple[str, ...]:
    on_device = ("", _UNKNOWN, _UNKNOWN, _UNKNOWN, _UNKNOWN)
    if device is not None:
        on_device = (
            "" if device.gpu is None else str(device.gpu),
            format_size(device.limit.values[-1] if device.limit.values else None),
            format_size(max(device.held.values, default=0)),
            format_size(each.mean_held_bytes(device)),
            _percent(each.near_limit(device)),
        )
    return (
        each.name or each.container_id[:12],
        *on_device,
        _duration(each.stay_ns),
        _duration(each.waited_ns),
        str(each.decisions["granted"] + each.decisions["resumed"]),
        str(each.decisions["denied"]),
        _percent(each.denial_rate),
    )


def _losses(study: Study) -> str:
    losses = study.rows["losses"]
    if not losses:
        return "<p>Nothing was lost: all that happened is in the log.</p>"
    return _table(
        ("time (UTC)", "#count", "reason"), [(_time(r["time_ns"]), str(r["count"]), r["reason"]) for r in losses]
    )


def _findings(study: Study) -> str:
    names = {each.container_id: each.name or each.container_id[:12] for each in study.containers.values()}
    rows = [
        (
            row["finding"],
            names.get(str(row["container_id"]), str(row["container_id"] or "")[:12]),
            "" if row["gpu"] is None else str(row["gpu"]),
            _time(row["raised_ns"]),
            "" if row["cleared_ns"] is None else _time(row["cleared_ns"]),
            *(format_size(row[name]) for name in ("used_bytes", "witness_bytes", "nvml_bytes")),
            row["reason"] or "",
        )
        for row in study.rows["findings"]
    ]
    headings = ("finding", "container", "GPU", "raised", "over", "#ledger", "#witness", "#NVML", "reason")
    return _table(headings, rows) if rows else "<p>None.</p>"


def _notes(study: Study) -> str:
    rows = [(_time(row["time_ns"]), row["text"], row["by_uid"] or "") for row in study.rows["notes"]]
    return _table(("time (UTC)", "note", "user id"), rows) if rows else ""


def _runs(study: Study) -> str:
    rows = [
        (
            _time(row["started_ns"]),
            _UNKNOWN if row["stopped_ns"] is None else _time(row["stopped_ns"]),
            row["version"],
            row["algorithm"],
            "" if row["safe"] is None else ("safe" if row["safe"] else "unsafe"),
            row["driver"] or _UNKNOWN,
            row["kernel"] or _UNKNOWN,
        )
        for row in study.rows["runs"]
    ]
    return (
        _table(("started (UTC)", "stopped", "version", "algorithm", "rule", "driver", "kernel"), rows) if rows else ""
    )


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a heading that begins with # is one of numbers."""
    classes = [' class="number"' if heading.startswith("#") else "" for heading in headings]
    head = "".join(f"<th{c}>{escape(h.removeprefix('#'))}</th>" for h, c in zip(headings, classes, strict=True))
    lines = [
        "<tr>" + "".join(f"<td{c}>{escape(str(cell))}</td>" for cell, c in zip(row, classes, strict=True)) + "</tr>"
        for row in rows
    ]
    return f'<div class="scroll"><table>\n<tr>{head}</tr>\n' + "\n".join(lines) + "\n</table></div>"


def _time(time_ns: int) -> str:
    return format_timestamp(time_ns)[:19].replace("T", " ")


def _duration(duration_ns: int) -> str:
    seconds = duration_ns / _SECOND_NS
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _percent(part: float | None) -> str:
    return _UNKNOWN if part is None else f"{part * 100:.1f} %"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
