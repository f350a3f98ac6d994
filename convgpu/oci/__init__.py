# SPDX-License-Identifier: Apache-2.0
"""Ways into a container: what `docker run` must be told, and what a container's labels say.

The room turns settings into arguments, mounts and labels, and labels back into settings. It imports the core only;
the command line uses it to start containers, the daemon to read their labels.
"""
