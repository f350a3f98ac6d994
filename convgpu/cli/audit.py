# SPDX-License-Identifier: Apache-2.0
"""`convgpu audit`: what can be done with the audit log. One file a verb, as everywhere."""

from __future__ import annotations

from typing import Final

import click

from convgpu.cli.group import LazyGroup, Verb
from convgpu.cli.options import examples

VERBS: Final = {
    "verify": Verb("convgpu.cli.audit_verify", "Check that nothing was changed, removed or put in."),
    "head": Verb("convgpu.cli.audit_head", "Say what to note elsewhere, to prove a later change."),
    "query": Verb("convgpu.cli.audit_query", "Find records."),
    "export": Verb("convgpu.cli.audit_export", "Make tables of it: CSV, SQLite or Parquet."),
    "report": Verb("convgpu.cli.audit_report", "Make one page with pictures of it."),
    "annotate": Verb("convgpu.cli.audit_annotate", "Put a note into it."),
    "keygen": Verb("convgpu.cli.audit_keygen", "Make a key for seals or for pseudonyms."),
    "schema": Verb("convgpu.cli.audit_schema", "Print the JSON Schema of its records."),
}


@click.command(
    cls=LazyGroup,
    verbs=VERBS,
    epilog=examples(
        "convgpu audit verify",
        "convgpu audit query --since 1h --type decision.denied",
        "convgpu audit export --to sqlite -o run.sqlite",
        "convgpu audit report -o report.html",
    ),
)
def command() -> None:
    """Check, search and evaluate the audit log. No daemon is needed, but for annotate.

    LOG is the log with all files that rotation has put aside, a folder with one, or a single file, also compressed
    (.gz). Not given, it is the log of this machine's daemon. docs/audit.md says what is in it.
    """
