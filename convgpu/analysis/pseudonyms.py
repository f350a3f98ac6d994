# SPDX-License-Identifier: Apache-2.0
"""Pseudonyms for publishing: the same name has the same pseudonym, and only who has the key can tell which name it is.

    pseudonym = KIND-<first 16 hexadecimal digits of HMAC-SHA-256(key, KIND || 0 || name)>

A plain hash would not do: names of containers and users are few enough to be tried.
"""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha256
from pathlib import Path
from typing import Final

from convgpu.audit.keys import write_new
from convgpu.errors import AuditError

_KEY_BYTES: Final = 32
_FEWEST_BYTES: Final = 16
_DIGITS: Final = 16
"""64 bits: a collision among a million names has a chance of one in forty million."""


class Pseudonyms:
    """Makes pseudonyms with one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._made: dict[tuple[str, str], str] = {}

    def of(self, kind: str, name: str) -> str:
        """Return the pseudonym of a name of this kind."""
        made = self._made.get((kind, name))
        if made is None:
            message = kind.encode() + b"\0" + name.encode("utf-8", "replace")
            digest = hmac.new(self._key, message, sha256).hexdigest()
            made = self._made[kind, name] = f"{kind}-{digest[:_DIGITS]}"
        return made


def load(path: Path) -> Pseudonyms:
    """Read a key file: its bytes are the key, white space at the ends left out.

    Raises:
        AuditError: It cannot be read, or is too short to be a secret.
    """
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise AuditError(
            f"cannot read the key {path}: {error.strerror}",
            next_step=f"make one: convgpu audit keygen --pseudonyms {path}",
        ) from error
    if len(key) < _FEWEST_BYTES:
        raise AuditError(
            f"the key {path} has {len(key)} bytes, and {_FEWEST_BYTES} are the least that is a secret",
            next_step="make one: convgpu audit keygen --pseudonyms FILE",
        )
    return Pseudonyms(key)


def generate(path: Path) -> None:
    """Write a new key, for its owner only.

    Raises:
        UsageError: There is a file already.
        AuditError: It cannot be written.
    """
    write_new(path, secrets.token_hex(_KEY_BYTES).encode() + b"\n", 0o600)
