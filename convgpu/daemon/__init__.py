# SPDX-License-Identifier: Apache-2.0
"""The service: client socket, control socket, reconcile loop, state.

It joins the pure judge (`convgpu.core`) to the doors (`convgpu.sources`) and the log (`convgpu.audit`). Only the
`convgpu daemon` command imports it; everybody else talks to it through `convgpu.api`.
"""
