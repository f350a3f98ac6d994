# SPDX-License-Identifier: Apache-2.0
"""What can be learnt from an audit log: records that are looked for, tidy tables, figures, pictures, one page.

It reads logs and nothing else: no daemon, no Docker. It imports `convgpu.audit` and `convgpu.core`; pictures are made
in one module, and so is Parquet.
"""
