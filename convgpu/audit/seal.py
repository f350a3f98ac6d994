# SPDX-License-Identifier: Apache-2.0
"""Seals: records that say *up to here*, signed where a key is configured.

A seal signs the canonical bytes of its own record without the signature. These contain the hash of the record before,
and with it all records before. Whoever has the public key can tell a log of the daemon from one that somebody wrote
anew, as long as the private key was not in that somebody's hands. Root of the machine can read it: against root helps a
head that is kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from convgpu.audit.chain import canonical_bytes

SEAL: Final = "seal"
"""The record type."""
_PURPOSE: Final = b"convgpu audit seal 1\n"
"""Keeps a signature from meaning something else, should the key ever be used for more."""


class SealReason(StrEnum):
    """Why a seal was set."""

    INTERVAL = "interval"
    ROTATION = "rotation"
    STOP = "stop"


class Signer(Protocol):
    """A private key."""

    key_id: str

    def sign(self, message: bytes) -> bytes:
        """Return the signature."""
        ...


class SealKey(Protocol):
    """A public key."""

    key_id: str

    def accepts(self, signature: bytes, message: bytes) -> bool:
        """Whether the private key of this one has signed the message."""
        ...


@dataclass(frozen=True, slots=True)
class Sealing:
    """How a writer seals.

    Attributes:
        interval_ns: A record waits so long for a seal at most; None: no seals but at rotation and at the end.
        signer: None: seals are not signed.
    """

    interval_ns: int | None = None
    signer: Signer | None = None


def signed_bytes(record: Mapping[str, object]) -> bytes:
    """Return what the signature of a seal is made over."""
    return _PURPOSE + canonical_bytes({name: value for name, value in record.items() if name != "signature"})


def signed(record: dict[str, object], signer: Signer) -> dict[str, object]:
    """Return a seal's record, whole but for its hash, with its signature."""
    record = record | {"key_id": signer.key_id}
    return record | {"signature": signer.sign(signed_bytes(record)).hex()}


def check_seal(record: Mapping[str, object], key: SealKey) -> str | None:
    """Return what is wrong with a seal, to somebody who expects it to be signed with this key; None: nothing."""
    signature = record.get("signature")
    if not isinstance(signature, str):
        return "the seal is not signed"
    if record.get("key_id") != key.key_id:
        return f"the seal is signed with another key, {record.get('key_id')}"
    try:
        valid = key.accepts(bytes.fromhex(signature), signed_bytes(record))
    except ValueError:
        valid = False
    return None if valid else "the signature of the seal does not fit"
