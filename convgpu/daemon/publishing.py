# SPDX-License-Identifier: Apache-2.0
"""What the settings tell the runtime shim."""

from __future__ import annotations

from convgpu.config.keys import DaemonConfig
from convgpu.native import LIBRARY_NAME, native_dir
from convgpu.oci.published import Published


def publish(config: DaemonConfig) -> None:
    """Write down what the runtime shim goes by from now on.

    Raises:
        EnvironmentMissingError: There is no library to preload: ConvGPU was not built.
    """
    Published(
        next=config.runtime_next,
        unlabelled=config.runtime_unlabelled,
        daemon_absent=config.runtime_daemon_absent,
        control_socket=config.paths.control_socket,
        library=native_dir() / LIBRARY_NAME,
        preload_dir=config.paths.preload_dir,
        client_dir=config.paths.client_dir,
    ).write(config.state_dir)
