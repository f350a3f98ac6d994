# SPDX-License-Identifier: Apache-2.0
"""The judge in virtual time: workloads in, figures out.

The engine that decides here is the daemon's own. Everything between is values: a workload (written by hand, generated,
or rebuilt from an audit log), a run, a result. Same workload, same settings, same seed: same result, to the byte.
Imports `core` only; `charts` also matplotlib, when a picture is asked for. The command line imports it.
"""
