# SPDX-License-Identifier: Apache-2.0
"""Fakes that behave, one for each door: for this project's tests and for other researchers' experiments.

They stand in for Docker, NVML, the witness and the daemon; anybody may import them.
"""
