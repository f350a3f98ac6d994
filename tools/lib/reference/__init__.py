# SPDX-License-Identifier: Apache-2.0
"""The pages of docs/reference and the manual pages that `tools/reference.py` makes from the code, one module each."""
