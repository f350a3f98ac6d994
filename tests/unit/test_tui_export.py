# SPDX-License-Identifier: Apache-2.0
"""The screen as a picture."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from convgpu.testing.snapshots import sample_snapshot
from convgpu.tui.export import export_svg


def words_of(picture):
    texts = [element.text or "" for element in ET.fromstring(picture).iter() if element.tag.endswith("text")]
    return " ".join(texts).replace("\xa0", " ")


def test_the_picture_shows_the_screen():
    words = words_of(export_svg(sample_snapshot(), 100, 20))
    for word in ("(simulated)", "alpha", "suspended", "QUEUE", "4.50GiB / 5.00GiB"):
        assert word in words


def test_the_picture_stands_alone_and_does_not_change():
    picture = export_svg(sample_snapshot())
    assert picture == export_svg(sample_snapshot())
    assert "url(http" not in picture
    assert "@font-face" not in picture
