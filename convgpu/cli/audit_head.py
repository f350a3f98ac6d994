# SPDX-License-Identifier: Apache-2.0
"""`convgpu audit head`: the last record, to be noted elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from convgpu.cli.audit_log import files_of, log_argument
from convgpu.cli.listing import Listing
from convgpu.cli.options import examples, format_option
from convgpu.cli.output import TABLE, echo_records


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The last record of a log.

    Attributes:
        seq: Its serial number; 0: the log is empty.
        hash: Its hash, 64 hexadecimal digits.
    """

    seq: int
    hash: str


_LISTING: Final = Listing(AuditHead, single=True)


@click.command(
    epilog=examples(
        "convgpu audit head",
        "convgpu audit head | ssh keeper 'cat >> heads'",
        "convgpu audit verify --head $(convgpu audit head)",
    )
)
@log_argument
@format_option(_LISTING)
def command(log: Path, output_format: str) -> None:
    """Print the head of the audit log LOG: the number of its last record and its hash.

    Who notes it where this machine's root cannot change it can prove later, with `convgpu audit verify --head`, that
    what was in the log until then is all still there. Reads the end of the log only, and does not verify it.
    """
    from convgpu.audit.chain import EMPTY_HEAD
    from convgpu.audit.tail import read_head

    heads = (read_head(path) for path in reversed(files_of(log)))
    head = next((head for head in heads if head != EMPTY_HEAD), EMPTY_HEAD)
    if output_format == TABLE:
        click.echo(str(head))
    else:
        echo_records(_LISTING, [AuditHead(head.seq, head.hash)], output_format)
