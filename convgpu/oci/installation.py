# SPDX-License-Identifier: Apache-2.0
"""What `convgpu install` puts into a machine, and how all of it is taken out again."""

from __future__ import annotations

import contextlib
import difflib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from convgpu.errors import ConvgpuError, UsageError
from convgpu.oci import engine_settings
from convgpu.oci.engine_settings import Added
from convgpu.oci.files import replace_file
from convgpu.oci.launcher import PLUGIN_NAME, PROGRAM_NAME, launcher_text, plugin_text
from convgpu.oci.shim import PUBLISHED

ENGINE_FILE: Final = Path("etc/docker/daemon.json")
PROGRAM: Final = Path("usr/local/bin") / PROGRAM_NAME
PLUGIN: Final = Path("usr/local/lib/docker/cli-plugins") / PLUGIN_NAME
"""Of the folders of plugins for all users (docker/cli, cli-plugins/manager) the one for what no package brought."""
UNIT: Final = Path("etc/systemd/system/convgpu.service")
_BACKUP_SUFFIX: Final = ".before-convgpu"
_RECORD_NAME: Final = "installed.json"
_TEMPLATE: Final = Path(__file__).resolve().parents[1] / "data" / "convgpu.service"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One file that is made, changed or removed. `before` and `after` are its texts; None: it is not there.

    Attributes:
        folders: With a removal: those above it that were made for it, the lowest first. Empty ones go with it.
    """

    path: Path
    before: str | None
    after: str | None
    mode: int = 0o644
    folders: tuple[Path, ...] = ()

    def diff(self) -> Iterator[str]:
        """Yield the change as `diff -u` writes it."""
        names = (str(self.path) if self.before is not None else "/dev/null", str(self.path))
        before, after = (self.before or "").splitlines(), (self.after or "").splitlines()
        yield from difflib.unified_diff(before, after, *names, lineterm="")

    def make(self) -> None:
        """Carry it out, the whole file at once."""
        if self.after is None:
            self.path.unlink(missing_ok=True)
            for folder in self.folders:
                with contextlib.suppress(OSError):  # something else lies in it by now, or it is gone
                    folder.rmdir()
        else:
            replace_file(self.path, self.after, self.mode)


@dataclass(slots=True)
class Record:
    """What was installed, kept in the state folder.

    Attributes:
        added: What was put into daemon.json.
        engine_file_after: The text of daemon.json as it was left: only that one is replaced by the backup.
        engine_file_made: There was no daemon.json.
        folders_made: The folders that had to be made, below the root.
        published_made: Nothing was published for the runtime yet: no daemon had run.
    """

    added: Added = field(default_factory=Added)
    engine_file_after: str | None = None
    engine_file_made: bool = False
    folders_made: list[str] = field(default_factory=list)
    published_made: bool = False


class Installation:
    """One machine's installation.

    Args:
        root: The machine's root folder.
        state_dir: The daemon's state folder.
        next_runtime: Where the shim will leave the work (`runtime_next`).
    """

    def __init__(self, root: Path, state_dir: Path, next_runtime: str) -> None:
        self._root = root
        self._engine_file = (root / ENGINE_FILE).resolve()  # one that is a link stays one
        self._backup = self._engine_file.with_name(self._engine_file.name + _BACKUP_SUFFIX)
        self._program = root / PROGRAM
        self._plugin = root / PLUGIN
        self._unit = root / UNIT
        self._state_dir = state_dir
        state = root / state_dir.relative_to("/")
        self._record_file = state / _RECORD_NAME
        self._published = state / PUBLISHED
        self._cdi_hook = state / PROGRAM_NAME
        self._next_runtime = next_runtime

    @property
    def engine_file(self) -> Path:
        """Docker's daemon.json."""
        return self._engine_file

    def changes(self, *, default: bool) -> list[Change]:
        """Return what is to be done to install; nothing where everything is in place.

        Args:
            default: Make it the default runtime.

        Raises:
            UsageError: daemon.json is not understood, or its default runtime would be lost.
        """
        before = _text(self._engine_file)
        record = self._read_record() or Record(
            engine_file_made=before is None, published_made=not self._published.exists()
        )
        try:
            after = engine_settings.with_runtime(before, f"/{PROGRAM}", default=default)
            default_before = engine_settings.default_runtime(before)
            if default and default_before is not None:
                self._check_next(engine_settings.runtime_program(before, default_before), default_before)
        except UsageError as error:
            raise UsageError(
                f"{self._engine_file}: {error.message}", next_step=error.next_step or "correct the file by hand"
            ) from error
        if after != before:
            if default and not record.added.default:
                record.added = Added(default=True, default_before=default_before)
            record.engine_file_after = after
        record.folders_made += self._missing_folders()
        wanted = [
            (self._program, launcher_text(self._state_dir), 0o755),
            (self._plugin, plugin_text(), 0o755),
            (self._unit, _TEMPLATE.read_text().format(convgpu=_command()), 0o644),
            (self._record_file, json.dumps(asdict(record), indent=1) + "\n", 0o600),
            (self._engine_file, after, _mode(self._engine_file)),
        ]
        found = [Change(path=path, before=_text(path), after=text, mode=mode) for path, text, mode in wanted]
        if before is not None and after != before and not self._backup.exists():
            found.insert(-1, Change(path=self._backup, before=None, after=before, mode=_mode(self._engine_file)))
        return [change for change in found if change.before != change.after]

    def removal(self) -> list[Change]:
        """Return what is to be done to take everything out again.

        Raises:
            UsageError: daemon.json is not understood.
        """
        record = self._read_record()
        gone = [self._program, self._plugin, self._unit, self._backup, self._record_file]
        if record is not None and record.published_made and not self._cdi_hook.exists():
            gone.append(self._published)
        made = [self._root / name for name in record.folders_made] if record is not None else []

        def without(path: Path, text: str) -> Change:
            return Change(path=path, before=text, after=None, folders=tuple(up for up in path.parents if up in made))

        found = [without(path, text) for path in gone if (text := _text(path)) is not None]
        now = _text(self._engine_file)
        if record is not None and now is not None:
            after = self._engine_text_before(record, now)
            if after is None:
                found.insert(0, without(self._engine_file, now))
            elif after != now:
                found.insert(0, Change(path=self._engine_file, before=now, after=after, mode=_mode(self._engine_file)))
        return found

    def _engine_text_before(self, record: Record, now: str) -> str | None:
        """Return daemon.json to the letter as it was, or, where others changed it since, without what is ours."""
        if now == record.engine_file_after:
            return None if record.engine_file_made else _text(self._backup)
        try:
            left = engine_settings.without_runtime(now, record.added)
        except UsageError as error:
            raise UsageError(f"{self._engine_file}: {error.message}", next_step="correct the file by hand") from error
        return left if left is not None or record.engine_file_made else "{}\n"

    def _missing_folders(self) -> list[str]:
        """Return which folders will have to be made for the files; outside the root, by a link, none is ours."""
        files = (self._program, self._plugin, self._unit, self._record_file, self._engine_file)
        missing = {folder for file in files for folder in file.parents if not folder.exists()}
        return sorted(str(folder.relative_to(self._root)) for folder in missing if folder.is_relative_to(self._root))

    def _check_next(self, program: str, name: str) -> None:
        """The default runtime of before must be the one that ConvGPU's leaves the work to: GPUs may depend on it."""
        if shutil.which(program) != shutil.which(self._next_runtime) and program != self._next_runtime:
            raise UsageError(
                f"its default runtime is '{name}' ({program}), and ConvGPU's would leave the work to "
                f"{self._next_runtime}",
                next_step=f'put `runtime_next = "{program}"` into /etc/convgpu/config.toml, then install again',
            )

    def _read_record(self) -> Record | None:
        text = _text(self._record_file)
        if text is None:
            return None
        content: dict[str, Any] = json.loads(text)
        return Record(**{**content, "added": Added(**content["added"])})


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConvgpuError(f"{path} cannot be read: {error}") from error


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777 if path.exists() else 0o644


def _command() -> str:
    """Return the `convgpu` of this installation."""
    beside = Path(sys.executable).parent / "convgpu"
    return str(beside) if beside.exists() else shutil.which("convgpu") or "convgpu"
