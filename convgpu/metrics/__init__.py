# SPDX-License-Identifier: Apache-2.0
"""What Prometheus reads: the table of metrics, their values of a snapshot, and the endpoint that serves them.

`table` is the one place that names a metric; docs/reference/metrics.md is made from it. The room imports
`core`; the daemon alone imports it, and the endpoint (prometheus_client, http) only where one is configured.
"""
