# SPDX-License-Identifier: Apache-2.0
"""Write docs/reference/configuration.md and docs/config.example.toml; with --check only tell if they are up to date."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import wrap
from typing import Final

from convgpu.config.key import Key
from convgpu.config.keys import DEVICE_TABLE, KEYS, DaemonConfig
from convgpu.config.layers import Effective
from convgpu.config.listing import list_settings, to_toml, toml_value
from convgpu.paths import DEFAULT_CONFIG_FILE

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "reference" / "configuration.md"
_WIDTH: Final = 120
EXAMPLE: Final = ROOT / "docs" / "config.example.toml"

_HEAD: Final = f"""\
# Configuration

Made from the table of keys (`convgpu/config/keys.py`) by `tools/configuration.py`; change that table, not this page.

The daemon reads `{DEFAULT_CONFIG_FILE}`, where there is one, or the file of `--config` (`CONVGPU_CONFIG`). It is
TOML; [config.example.toml](../config.example.toml) has every key with its default. Every key is an option of `convgpu
daemon` as well, and the three folders are environment variables (`CONVGPU_RUN_DIR`, ...). The command line wins over
the environment, that over the file, that over the defaults. An option that is given for all GPUs also wins over what
the file says of that key for single ones.

```sh
convgpu config check                  # all that is wrong with the file, by line; exit status 2
sudo convgpu config reload            # or SIGHUP to the daemon: read it again
convgpu config show                   # what is in force, and where each setting comes from
convgpu config show --defaults --format toml | sudo tee {DEFAULT_CONFIG_FILE}   # a file to begin with
```

**A reload takes all of the file or nothing.** With a mistake in it (an unknown key, a bad value, a GPU that is not
there) the old settings hold, `convgpu config reload` and the daemon's stderr say what is wrong, and the audit log
notes `config.rejected`. Otherwise it notes `config.changed` with the old and new values. What is marked *restart*
below is named and stays as it was until the daemon starts again. Containers that run keep the limits they have; a
changed default limit holds for those that come later.

**A size** is `"4GiB"`, `"4G"`, `"4096MiB"` or whole bytes without quotes. **A share** is `"25%"` or `"12.5%"`, in
whole granules of 2 MiB. What it is a share of, the key says.
"""

_DEVICES: Final = f"""\
## Single GPUs

What the table above marks with *per GPU* can be set for one GPU, in a table named by its index or, which survives a
change of the hardware, by its UUID (`nvidia-smi -L`). Such tables stand after all other keys. The UUID wins over the
index, both over what holds for all.

```toml
reserve = "512MiB"

[{DEVICE_TABLE}.GPU-6b3f1d5e-0f0d-4c7b-9b7e-0d6a1f5f2c11]
capacity = "40GiB"
default_limit = "deny"

[{DEVICE_TABLE}.1]
reserve = "10%"
```

On the command line: `convgpu daemon --reserve 512MiB --reserve 1=10%`.

A container without a label that was given several GPUs gets the limit of each on each. If one of them denies it, it
may use none of them.

## What is held outside ConvGPU

Other programs may use the GPUs too. Where `capacity` is `auto`, what they hold is not assigned to containers:

    capacity = memory of the GPU - held outside - reserve

Held outside is what NVML shows as in use, minus what it shows for the processes of guarded containers, minus their
managed memory, which NVML shows with no process. The driver's own base is part of it: some 620 MiB on an H200. So is
what a process takes that runs in a container without the preloaded library, and what one with the library takes past
it, beyond what it was granted: nobody asked for it, and it is gone all the same.

It is measured at every `interval`, and changes only when every reading of the last two seconds (of three rounds at
least) agrees: it grows to the smallest of them, and shrinks to the largest once that is 64 MiB less. What was taken
between two figures of one reading, or is given back by a process that has just been killed, is thus no reason to take
anything from a container. It is rounded up to 32 MiB, so that the few MiB which the driver adds with each process do
not change it each time. In force it shows as EXTERNAL in `convgpu top`, as `external_bytes` in JSON, below the table
of `convgpu ps`; each change of a capacity is in the audit log as `capacity.changed`.

When a capacity falls, nobody loses what is in use: what is assigned and not used is taken back, the latest
container's first, guarantees last. When it comes back, those that wait go on.
"""


def page() -> str:
    """Return the page."""
    lines = [_HEAD, "## Keys", "", "| key | default | reload | per GPU |", "|---|---|---|---|"]
    for key in KEYS:
        live = "live" if key.live else "restart"
        lines.append(
            f"| [`{key.name}`](#{key.name}) | `{_default(key)}` | {live} | {'per GPU' if key.per_device else ''} |"
        )
    for key in KEYS:
        forms = f"Value: {key.form.accepted}. Option: {_option(key)}."
        lines += [
            "",
            f"### {key.name}",
            "",
            *wrap(key.meaning, _WIDTH),
            "",
            *wrap(forms, _WIDTH, break_on_hyphens=False),
        ]
    return "\n".join([*lines, "", _DEVICES])


def _default(key: Key) -> str:
    return toml_value(key.form.write(key.default))


def _option(key: Key) -> str:
    if key.opposite is not None:
        return f"`{key.option}` or `--{key.opposite}`"
    value = key.form.name.upper()
    return f"`{key.option} [GPU=]{value}`" if key.per_device else f"`{key.option} {value}`"


def example() -> str:
    """Return the example file."""
    return to_toml(list_settings(Effective(config=DaemonConfig())), DEFAULT_CONFIG_FILE)


def main() -> int:
    wanted = {PAGE: page(), EXAMPLE: example()}
    if sys.argv[1:] != ["--check"]:
        for path, text in wanted.items():
            path.write_text(text)
        return 0
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text() != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)} is out of date: run python tools/configuration.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
