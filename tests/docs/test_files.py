# SPDX-License-Identifier: Apache-2.0
"""The files that the how-tos print are files that work: settings, the unit, Compose, labels, Python, an algorithm."""

from __future__ import annotations

import ast
import configparser
import shutil
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pages
import pytest
import yaml

from convgpu.config.layers import Layers
from convgpu.oci.labels import PREFIX, parse_labels

HOW_TO = sorted((pages.ROOT / "docs" / "how-to").glob("*.md"))
SETTINGS, OTHER_TOML = "settings", "toml of another program"


def blocks(language: str, *, folder: str = "docs") -> list[tuple[str, pages.Block]]:
    found = [page for page in pages.pages() if page.name.startswith(folder)]
    return [(page.name, block) for page in found for block in page.blocks if block.language == language]


def ids(found: list[tuple[str, pages.Block]]) -> list[str]:
    return [f"{name}:{block.line}" for name, block in found]


TOML = blocks("toml", folder="docs/how-to")


@pytest.mark.parametrize(("name", "block"), TOML, ids=ids(TOML))
def test_settings_are_accepted(name: str, block: pages.Block, tmp_path: Path) -> None:
    if OTHER_TOML in block.notes:
        assert tomllib.loads(block.text)
        return
    assert SETTINGS in block.notes, "say in a comment above whose file this is"
    file = tmp_path / "config.toml"
    file.write_text(block.text)
    sources = Layers(file, required=True).read().sources
    assert sources
    assert set(sources.values()) == {"file"}


def test_the_unit_is_the_one_that_install_writes() -> None:
    template = (pages.ROOT / "convgpu" / "data" / "convgpu.service").read_text()
    shown = pages.page("docs/how-to/lab-workstation.md").block("the unit").text
    assert shown == template.format(convgpu="/opt/convgpu/venv/bin/convgpu")
    assert configparser.ConfigParser(strict=True, interpolation=None).read_string(shown) is None


def compose() -> str:
    return pages.page("docs/how-to/compose.md").block("compose file").text


def test_the_compose_file_asks_for_what_convgpu_reads() -> None:
    services: dict[str, Any] = yaml.safe_load(compose())["services"]
    assert set(services) == {"inference", "trainer", "nightly"}
    for name, service in services.items():
        assert service["runtime"] == "convgpu", name
        labels = service["labels"]
        assert all(key.startswith(PREFIX) and isinstance(value, str) for key, value in labels.items()), name
        assert parse_labels(labels).limit_bytes, name


def compose_command() -> list[str] | None:
    """Return Compose as it is installed here: the plugin, or the program of before."""
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


def test_compose_itself_accepts_the_file(tmp_path: Path) -> None:
    command = compose_command()
    if command is None:
        pytest.skip("no Compose here")
    file = tmp_path / "compose.yaml"
    file.write_text(compose())
    told = [*command, "-f", str(file), "--profile", "night", "config"]
    done = subprocess.run(told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    limits = {name: service["labels"]["convgpu.limit"] for name, service in services.items()}
    assert limits == {"inference": "12GiB", "trainer": "20GiB", "nightly": "4GiB"}


def test_the_labels_of_other_files_are_read_too() -> None:
    runners = pages.page("docs/how-to/ci-runners.md")
    gitlab = tomllib.loads(runners.block(OTHER_TOML).text)["runners"][0]["docker"]
    assert gitlab["runtime"] == "convgpu"
    assert parse_labels(gitlab["container_labels"]).wait_ns == 20 * 60 * 10**9
    options = yaml.safe_load(runners.block("workflow").text)["jobs"]["tests"]["container"]["options"].split()
    given = [word.partition("=")[::2] for word in options if word.startswith(PREFIX)]
    assert parse_labels(dict(given)) == parse_labels(gitlab["container_labels"])
    hub = ast.parse(pages.page("docs/how-to/notebooks.md").block("python").text)
    labels = [ast.literal_eval(node) for node in ast.walk(hub) if isinstance(node, ast.Dict) and _is_labels(node)]
    assert [parse_labels(each).limit_bytes for each in labels] == [8 << 30]


def _is_labels(node: ast.Dict) -> bool:
    return all(isinstance(key, ast.Constant) and str(key.value).startswith(PREFIX) for key in node.keys)


PYTHON = blocks("python")


@pytest.mark.parametrize(("name", "block"), PYTHON, ids=ids(PYTHON))
def test_python_is_python(name: str, block: pages.Block) -> None:
    compile(block.text, f"{name}:{block.line}", "exec")


def test_the_algorithm_of_the_page_decides(tmp_path: Path) -> None:
    page = pages.page("docs/how-to/researchers.md")
    (tmp_path / "shortest.py").write_text(page.block("algorithm").text)
    project = tomllib.loads(page.block(OTHER_TOML).text)["project"]
    entry = project["entry-points"]["convgpu.algorithms"]
    described = tmp_path / "shortest-1.dist-info"  # what pip makes of the pyproject.toml
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: shortest\nVersion: 1\n")
    lines = "".join(f"{name} = {where}\n" for name, where in entry.items())
    (described / "entry_points.txt").write_text(f"[convgpu.algorithms]\n{lines}")
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from convgpu.cli.main import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        str(tmp_path),
        "simulate",
        "--algorithm",
        "fifo,smallest-need",
        "--seed",
        "3",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=pages.ROOT)
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("fifo ", "smallest-need "))]
    assert [row[0] for row in rows] == ["fifo", "smallest-need"]
    assert rows[0][1:] != rows[1][1:]


@pytest.mark.parametrize("picture", sorted((pages.ROOT / "docs" / "images").glob("*.svg")), ids=lambda path: path.name)
def test_pictures_are_well_formed_and_say_what_they_show(picture: Path) -> None:
    root = ET.parse(picture).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    page_names = [page.name for page in pages.pages() if any(target.endswith(picture.name) for target in page.links())]
    assert page_names, "a picture that no page shows"
