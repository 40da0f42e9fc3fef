"""The manifest of a checkpoint: what it holds, sealed by the manifest's own hash; the checks for completeness."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from settings import Settings, UserError, parse
from settings.files import file_sha256, write_json
from train.checkpoint.safetensors_file import read_header
from train.held_out_loss import comparison_key

FILE_NAME = "manifest.json"
STATE_FILE_NAME = "state.json"
_NFS_PREFIX = ".nfs"  # what NFS leaves in place of a file that was removed while open
_MOST_BYTES = 2**30  # of a manifest: more is garbage


class FileRecord(Settings):
    """Size in bytes and hash of one file of a checkpoint."""

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """Returns the record of a file as it is now. Raises OSError."""
        return cls(bytes=path.stat().st_size, sha256=file_sha256(path))


class Manifest(Settings):
    """The content of a complete checkpoint."""

    format: Literal[1] = 1
    step: int = Field(ge=0)
    tokens: int = Field(0, ge=0)
    date: str = ""
    held_out_loss: float | None = None  # of an evaluation at this very step
    held_out_on: dict[str, Any] = Field({}, description="the sequences of that evaluation; empty if not known")
    model: dict[str, Any]  # the model's config: weights of another model are refused by name
    tokenizer: str = ""  # its hash; "" if not known
    registered_forecast: str = ""  # the hash of its file; "" if none was registered before the run
    layout: dict[str, Any] = Field({}, description="the layout that wrote it; any other can read it")
    tensors: dict[str, tuple[int, ...]]  # full shapes; float32, but for optimizer state that is bool
    files: dict[str, FileRecord]

    @property
    def measured(self) -> MeasuredLoss | None:
        """The held-out loss, to be compared with those of other checkpoints; None without an evaluation."""
        if self.held_out_loss is None:
            return None
        return MeasuredLoss(self.held_out_loss, on=comparison_key(self.held_out_on))

    def tensor_files(self, path: Path) -> list[Path]:
        """Returns all files but the state, in the checkpoint's folder `path`."""
        return [path / name for name in sorted(self.files) if name != STATE_FILE_NAME]


@dataclass(frozen=True)
class MeasuredLoss:
    """A held-out loss, which compares only with losses on the same sequences."""

    loss: float
    on: str  # comparison key of the sequences


class IncompleteCheckpointError(UserError):
    """A checkpoint lacks something or was altered; `problems` lists it all."""

    def __init__(self, path: Path, problems: Iterable[str]) -> None:
        # Names in damaged files may hold what no terminal can show.
        self.problems = [problem.encode(errors="backslashreplace").decode() for problem in problems]
        super().__init__(f"checkpoint {path} is not complete: {'; '.join(shortened(self.problems))}")


def shortened(problems: list[str], most: int = 4) -> list[str]:
    """Returns the first problems, and how many more there are."""
    return problems if len(problems) <= most else [*problems[:most], f"and {len(problems) - most} more"]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes manifest.json with the hash of its own content. Raises OSError."""
    plain = manifest.to_plain()
    write_json(folder / FILE_NAME, {**plain, "sha256": _seal(plain)})


def read_manifest(path: Path) -> Manifest:
    """Reads the manifest of the checkpoint `path`; checks its seal, and that every file is there with its size.

    Raises IncompleteCheckpointError. The content of the files is not checked: see `content_problems`.
    """
    source = path / FILE_NAME
    try:
        if source.stat().st_size > _MOST_BYTES:
            raise ValueError("it is larger than any manifest")
        plain = json.loads(source.read_bytes())
        if not isinstance(plain, dict):
            raise ValueError("it holds no mapping")
        seal = plain.pop("sha256", None)
        if seal != _seal(plain):
            raise ValueError("it was altered: its own hash is not that of its content")
        manifest = parse(Manifest, plain, source=FILE_NAME)
    except FileNotFoundError:
        raise IncompleteCheckpointError(path, [f"{FILE_NAME} is missing"]) from None
    except OSError as error:
        raise IncompleteCheckpointError(path, [f"{FILE_NAME} cannot be read ({error.strerror})"]) from None
    except (ValueError, RecursionError) as error:
        raise IncompleteCheckpointError(
            path, [f"{FILE_NAME} is not readable: {' '.join(str(error).split())}"]
        ) from None
    problems = list(_listing_problems(path, manifest))
    if problems:
        raise IncompleteCheckpointError(path, problems)
    return manifest


def content_problems(path: Path, manifest: Manifest, *, share: int = 0, shares: int = 1) -> list[str]:
    """Lists the files whose content is wrong, by their hashes. Of `shares` ranks, rank `share` reads its share of them.

    The largest file goes first, to the rank with the fewest bytes: so all ranks agree on who reads what.
    """
    loads = [0] * shares
    problems = []
    for name, record in sorted(manifest.files.items(), key=lambda item: (-item[1].bytes, item[0])):
        reader = loads.index(min(loads))
        loads[reader] += record.bytes
        if reader == share and (problem := _file_problem(path, name, record)):
            problems.append(problem)
    return problems


def check_slices(path: Path, manifest: Manifest) -> None:
    """Raises IncompleteCheckpointError unless the files' slices make up every tensor of the manifest, and nothing else.

    It reads headers only. Files that match their hashes fail this check only if somebody made them up.
    """
    missing = {name: math.prod(shape) for name, shape in manifest.tensors.items()}
    problems = []
    for file in manifest.tensor_files(path):
        try:
            slices = read_header(file)
        except UserError as error:
            problems.append(str(error))
            continue
        except OSError as error:
            problems.append(f"{file.name} cannot be read ({error.strerror})")
            continue
        for name, part in slices.items():
            full = manifest.tensors.get(name)
            if full is None or len(full) != len(part.shape):
                problems.append(f"{file.name}: its {name} is not the manifest's")
            elif part.dtype != torch.float32 and (part.dtype != torch.bool or not name.startswith("optimizer.")):
                problems.append(f"{file.name}: its {name} is of {part.dtype}, and a checkpoint of torch.float32")
            elif any(o + s > f for o, s, f in zip(part.offsets, part.shape, full, strict=True)):
                problems.append(f"{file.name}: its part of {name} lies outside of {list(full)}")
            else:
                missing[name] -= math.prod(part.shape)
    problems += [f"{name}: not all of it is there, or some of it twice" for name, count in missing.items() if count]
    if problems:
        raise IncompleteCheckpointError(path, problems)


def _listing_problems(path: Path, manifest: Manifest) -> Iterable[str]:
    if path.name != folder_name(manifest.step):
        yield f"{FILE_NAME} is of step {manifest.step}"
    if STATE_FILE_NAME not in manifest.files:
        yield f"{FILE_NAME} names no {STATE_FILE_NAME}"
    found = {file.name for file in path.iterdir()}
    for name, record in manifest.files.items():
        if Path(name).name != name or (name != STATE_FILE_NAME and not name.endswith(".safetensors")):
            yield f"{FILE_NAME} names {name!r}, which is no file of a checkpoint"
            continue
        file = path / name
        if name not in found or file.is_symlink() or not file.is_file():
            yield f"{name} is missing"
        elif (size := file.stat().st_size) != record.bytes:
            yield f"{name} has {size:,} bytes instead of {record.bytes:,}"
    for name in sorted(found - set(manifest.files) - {FILE_NAME}):
        if not name.startswith(_NFS_PREFIX):
            yield f"{name} does not belong to it: it was added later, and is not opened (remove it if you know it)"


def _file_problem(path: Path, name: str, record: FileRecord) -> str | None:
    try:
        found = file_sha256(path / name)
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    return None if found == record.sha256 else f"{name} was altered: its hash is not that of {FILE_NAME}"


def folder_name(step: int) -> str:
    """Returns the name of a step's checkpoint: step-00000100."""
    return f"step-{step:08d}"


def _seal(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
