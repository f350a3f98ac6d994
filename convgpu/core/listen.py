# SPDX-License-Identifier: Apache-2.0
"""Where to listen: an address of this machine and a port. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from convgpu.errors import UsageError

ACCEPTED_FORMS: Final = "an address and a port such as 127.0.0.1:9400 or [::1]:9400"
_LOCALHOST: Final = "localhost"
_FORM: Final = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<other>[^\[\]:]+)):(?P<port>\d{1,5})", re.ASCII)
_LARGEST_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen.

    Attributes:
        host: An IP address, without brackets.
        port: 1 to 65535.
    """

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether this machine alone can connect."""
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        """Write it so that `parse_address` reads it again."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read `127.0.0.1:9400`, `[::1]:9400` or `localhost:9400`.

    A name is not looked up: what it means may change, and then so would who can connect.

    Raises:
        UsageError: Anything else; the message names the accepted forms.
    """
    form = _FORM.fullmatch(text)
    if form is None:
        raise UsageError(f"'{text}' is not where one can listen: write {ACCEPTED_FORMS}")
    host = form["six"] or ("127.0.0.1" if form["other"] == _LOCALHOST else form["other"])
    try:
        host = str(ipaddress.ip_address(host))
    except ValueError:
        raise UsageError(f"'{host}' is not an IP address: write {ACCEPTED_FORMS}") from None
    port = int(form["port"])
    if not 1 <= port <= _LARGEST_PORT:
        raise UsageError(f"{port} is not a port: write 1 to {_LARGEST_PORT}")
    return Address(host, port)
