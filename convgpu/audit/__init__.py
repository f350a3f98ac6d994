# SPDX-License-Identifier: Apache-2.0
"""The log that can be trusted: what a record is, how records are chained, written and verified.

The daemon writes through `AuditWriter`; anybody may verify, without privileges. This room imports `convgpu.core` and
`convgpu.errors` only: it knows neither the daemon nor Docker, and a log can be read where neither is installed.
"""
