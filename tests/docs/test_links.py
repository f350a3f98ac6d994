# SPDX-License-Identifier: Apache-2.0
"""Every relative link of every page leads to a file that is there, and every anchor to a heading."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pages
import pytest

PAGES = pages.pages()


def broken_links(page: pages.Page) -> list[str]:
    broken = []
    for target in page.links():
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = unquote(target).partition("#")
        path = (page.path.parent / name).resolve() if name else page.path
        if not path.exists():
            broken.append(f"{target}: no such file")
        elif anchor and path.suffix == ".md" and anchor not in pages.read(path).anchors():
            broken.append(f"{target}: no such heading")
    return broken


def test_there_are_pages_with_links() -> None:
    assert sum(len(page.links()) for page in PAGES) > 100


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_resolves(page: pages.Page) -> None:
    assert broken_links(page) == []


def test_a_broken_link_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A heading: `convgpu ps`\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md) [b](there.md#a-heading-convgpu-ps) [c](gone.md) ![d](there.md#gone) `[e](code.md)`\n"
        "[f](https://example.org/x)\n```sh\n[g](block.md)\n```\n"
    )
    assert broken_links(pages.read(page)) == ["gone.md: no such file", "there.md#gone: no such heading"]


def test_every_page_of_the_documentation_is_reached_from_its_index() -> None:
    reached: set[Path] = set()
    ahead = [pages.ROOT / "docs" / "README.md"]
    while ahead:
        path = ahead.pop()
        if path in reached:
            continue
        reached.add(path)
        linked = [(path.parent / target.partition("#")[0]).resolve() for target in pages.read(path).links()]
        ahead += [each for each in linked if each.suffix == ".md" and each.is_file()]
    there = {
        path for folder in ("docs", "docs/how-to", "docs/reference") for path in (pages.ROOT / folder).glob("*.md")
    }
    assert there - reached == set()
