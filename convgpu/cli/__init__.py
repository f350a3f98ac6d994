# SPDX-License-Identifier: Apache-2.0
"""The command line: one thin file for each verb, loaded when it is used.

A verb reads its options, asks the daemon through `convgpu.api` and prints. It decides nothing. Nothing imports this
room; it imports `api`, `config`, `core`, `oci`, and inside a verb `audit`, `doctor`, `tui`, `sources.simgpu` or
`daemon`.
"""
