# SPDX-License-Identifier: Apache-2.0
"""The pure judge: units, identities, quotas, the ledger, the engine and its algorithms.

Everybody may import this room; it imports nothing but the standard library and `convgpu.errors`. No I/O, no clock of
its own, no randomness that is not passed in: everything here is tested with plain values.
"""
