# SPDX-License-Identifier: Apache-2.0
"""What the documentation says is held against the program: links, command lines, files, and the whole quick start."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # the reader of pages beside the tests
