# SPDX-License-Identifier: Apache-2.0
"""What an operator can set: the one table of keys, the file, and what wins over what.

The daemon runs by it; the command line reads and shows it; `tools/configuration.py` documents it. It imports `core`
only. No I/O but reading the one file.
"""
