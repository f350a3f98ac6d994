# SPDX-License-Identifier: Apache-2.0
"""Reads the project's Markdown: code blocks, code in the text, links, and the anchors that links may name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_NOT_OURS = {".git", "build", "node_modules", ".venv", "venv"}
_FENCE = re.compile(r"^(?P<indent> {0,3})(?P<marks>`{3,}|~{3,})(?P<language>[\w+-]*)\s*$")
_COMMENT = re.compile(r"^<!-- (?P<text>[^>]*) -->$")
_HEADING = re.compile(r"^#{1,6}\s+(?P<text>.*?)\s*#*$")
_CODE = re.compile(r"(?<!`)(?P<marks>`+)(?!`)(?P<text>.+?)(?<!`)(?P=marks)(?!`)")
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<target>[^)\s]+)(?:\s+\"[^\"]*\")?\)")
_NAMED_TARGET = re.compile(r"^\[[^\]]+\]:\s+(?P<target>\S+)", re.MULTILINE)
_HTML_TARGET = re.compile(r"<(?:img|a|source)\b[^>]*\b(?:src|href|srcset)=\"(?P<target>[^\"]+)\"")
_HTML_ANCHOR = re.compile(r"<a\b[^>]*\b(?:id|name)=\"(?P<name>[^\"]+)\"")


@dataclass(frozen=True)
class Block:
    """A fenced block. `notes` are the HTML comments on the lines directly above it; a reader does not see them."""

    line: int
    language: str
    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """One page: its blocks, and the text without them."""

    path: Path
    blocks: tuple[Block, ...]
    prose: str

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    def codes(self) -> list[str]:
        """Return what stands in backquotes, with line breaks as spaces."""
        return [" ".join(found["text"].split()) for found in _CODE.finditer(self.prose.replace("\n", " "))]

    def links(self) -> list[str]:
        """Return the target of each link and picture."""
        plain = _CODE.sub("", self.prose)
        patterns = (_LINK, _NAMED_TARGET, _HTML_TARGET)
        return [found["target"] for pattern in patterns for found in pattern.finditer(plain)]

    def anchors(self) -> set[str]:
        """Return what a link may name after `#`, as GitHub makes it of headings."""
        found = {match["name"] for match in _HTML_ANCHOR.finditer(self.prose)}
        for line in self.prose.splitlines():
            heading = _HEADING.match(line)
            if heading:
                found.add(_slug(heading["text"], found))
        return found

    def block(self, note: str) -> Block:
        """Return the one block with a note."""
        (found,) = (block for block in self.blocks if note in block.notes)
        return found


def _slug(heading: str, taken: set[str]) -> str:
    plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
    number = 0
    while (candidate := slug if not number else f"{slug}-{number}") in taken:
        number += 1
    return candidate


def read(path: Path) -> Page:
    """Read one page."""
    blocks, prose, notes = [], [], []
    lines = iter(enumerate(path.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        fence = _FENCE.match(line.lstrip("> ") if line.startswith(">") else line)
        if fence is None:
            prose.append(line)
            comment = _COMMENT.match(line)
            notes = [*notes, comment["text"]] if comment else []
            continue
        body = []
        for _, inner in lines:
            if inner.strip() == fence["marks"]:
                break
            body.append(inner.removeprefix(fence["indent"]))
        else:
            raise AssertionError(f"{path}:{number}: this block does not end")
        blocks.append(Block(number, fence["language"], "\n".join(body) + "\n", tuple(notes)))
        prose.append("")
        notes = []
    return Page(path, tuple(blocks), "\n".join(prose))


def pages() -> list[Page]:
    """Return every page of the project; a template is none, what is made of it is."""
    found = sorted(path for path in ROOT.rglob("*.md") if not path.name.endswith(".template.md"))
    return [read(path) for path in found if not _NOT_OURS & set(path.relative_to(ROOT).parts)]


def page(name: str) -> Page:
    """Return one page by its path from the project's root."""
    return read(ROOT / name)
