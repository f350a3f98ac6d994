# SPDX-License-Identifier: Apache-2.0
"""Ed25519 keys for seals, as PEM files: the only module that needs the `cryptography` package.

A key's id is the SHA-256 of its 32 public bytes, as hexadecimal digits.
"""

from __future__ import annotations

import os
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from convgpu.errors import AuditError, EnvironmentMissingError, UsageError

PUBLIC_SUFFIX: Final = ".pub"


def require() -> None:
    """Check that there is what keys need.

    Raises:
        EnvironmentMissingError: `cryptography` is not installed.
    """
    if find_spec("cryptography") is None:
        raise EnvironmentMissingError(
            "signed seals need the Python package cryptography, which is not installed",
            next_step="install it: pip install 'convgpu[sign]'",
        )


class Ed25519Signer:
    """A private key."""

    def __init__(self, key: Any) -> None:
        self._key = key
        self.key_id = _key_id(key.public_key())

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of the signature."""
        signature: bytes = self._key.sign(message)
        return signature


class Ed25519Key:
    """A public key."""

    def __init__(self, key: Any) -> None:
        self._key = key
        self.key_id = _key_id(key)

    def accepts(self, signature: bytes, message: bytes) -> bool:
        """Whether the private key of this one has signed the message."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


def _key_id(public: Any) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return sha256(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()


def load_signer(path: Path) -> Ed25519Signer:
    """Read a private key.

    Raises:
        AuditError: It cannot be read, is no Ed25519 key, or others than its owner may read it.
        EnvironmentMissingError: As `require`.
    """
    require()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content, mode = _read(path)
    if mode & 0o077:
        raise AuditError(
            f"the key {path} can be read by others than its owner (mode {mode:04o})", next_step=f"chmod 600 {path}"
        )
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as error:
        raise _no_key(path) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path)
    return Ed25519Signer(key)


def load_public_key(path: Path) -> Ed25519Key:
    """Read a public key.

    Raises:
        AuditError: It cannot be read, or is no public Ed25519 key.
        EnvironmentMissingError: As `require`.
    """
    require()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    content, _ = _read(path)
    try:
        key = load_pem_public_key(content)
    except ValueError as error:
        raise _no_key(path, "public ") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(path, "public ")
    return Ed25519Key(key)


def generate(path: Path) -> tuple[Path, str]:
    """Make a key: the private one at `path`, for its owner only; the public one beside it.

    Returns:
        Where the public key is, and the key's id.

    Raises:
        UsageError: There is a file already.
        AuditError: It cannot be written.
        EnvironmentMissingError: As `require`.
    """
    require()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    public = key.public_key()
    public_path = path.with_name(path.name + PUBLIC_SUFFIX)
    write_new(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    write_new(public_path, public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    return public_path, _key_id(public)


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that must not be there yet: a key is never overwritten.

    Raises:
        UsageError: It is there.
        AuditError: It cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except FileExistsError as error:
        raise UsageError(f"{path} is there already, and a key is never overwritten: give another name") from error
    except OSError as error:
        raise AuditError(f"cannot write {path}: {error.strerror}") from error


def _read(path: Path) -> tuple[bytes, int]:
    try:
        with path.open("rb") as file:
            return file.read(1 << 16), os.fstat(file.fileno()).st_mode & 0o777
    except OSError as error:
        raise AuditError(f"cannot read the key {path}: {error.strerror}") from error


def _no_key(path: Path, kind: str = "private ") -> AuditError:
    return AuditError(
        f"{path} is not a {kind}Ed25519 key in PEM form", next_step="make one with `convgpu audit keygen`"
    )
