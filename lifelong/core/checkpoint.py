"""Checkpoint files: one file, a valid safetensors file, written whole or not at all.

Layout: 8 bytes with the header's length (little-endian), the header (JSON), the tensors' bytes.
The header's `__metadata__` holds the format's name, the schema version, the SHA-256 of everything
but itself, and the state's tree as JSON, in which a tensor is `{"$tensor": name}`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import torch
from torch import Tensor

from lifelong.core.errors import CheckpointError

FORMAT = "lifelong-checkpoint"
SCHEMA = 1
_MOST_HEADER = 100_000_000
_NO_HASH = "0" * 64
_INSTEAD = "; load an earlier file, or one from a backup"
_NAMES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint64: "U64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_Entry: TypeAlias = tuple[torch.dtype, list[int], list[int]]
"""A tensor's element type, its shape, and where its bytes begin and end."""


def save(path: str | Path, state: Any) -> None:
    """Write a state to a file, atomically: a temporary name, fsync, rename.

    Args:
        path: the file; one of that name is replaced only once the new one is whole.
        state: tensors, numbers, strings, None, and lists, tuples and dicts of them.

    Raises:
        CheckpointError: the state holds something else, or the file cannot be written (a full
            disk, no such folder); a file that was there is untouched and nothing is left behind.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(Path(folder) / "s.safetensors", {"w": torch.ones(2), "step": 3})
        ...     load(Path(folder) / "s.safetensors")
        {'w': tensor([1., 1.]), 'step': 3}
    """
    path = _path_of(path)
    tensors: dict[str, Tensor] = {}
    try:
        tree = json.dumps(_encode(state, "", tensors), allow_nan=False, separators=(",", ":"))
    except (RecursionError, ValueError) as error:
        raise CheckpointError(f"cannot write {path}: {error}; the state is too deep") from error
    # Widest first keeps every tensor aligned without gaps, as readers of this format expect.
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))
    header, hash_at = _header(ordered, tree)
    if len(header) > _MOST_HEADER:
        raise CheckpointError(
            f"cannot write {path}: its numbers and strings take {len(header) / 1e6:.0f} MB, of "
            f"{_MOST_HEADER / 1e6:.0f}; keep them in tensors"
        )
    if not path.name:
        raise CheckpointError(f"cannot write {str(path)!r}: it names no file")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            digest = _write(file, header, ordered)
            file.seek(8 + hash_at)
            file.write(digest.encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if not path.parent.is_dir():
            raise CheckpointError(
                f"cannot write {path}: there is no folder {path.parent}; make it first"
            ) from error
        need = sum(tensor.nbytes for tensor in ordered.values()) + len(header) + 8
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error}; it needs {need:,} bytes "
            "there; an earlier file of that name is untouched"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def load(path: str | Path) -> Any:
    """Read a state from a file that `save` wrote, after checking every byte of it.

    Raises:
        CheckpointError: there is no such file, or it is truncated, altered, not a checkpoint, or
            of another schema version.
    """
    path = _path_of(path)
    try:
        with open(path, "rb") as file:
            return _read(file, path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


def _path_of(path: object) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise CheckpointError(f"path is {path!r}; give the name of a file")
    return Path(path)


def _header(tensors: dict[str, Tensor], tree: str) -> tuple[bytes, int]:
    metadata = {"format": FORMAT, "schema": str(SCHEMA), "sha256": _NO_HASH, "state": tree}
    entries: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return header, header.index(_NO_HASH.encode())


def _write(file: BinaryIO, header: bytes, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(header)
    file.write(len(header).to_bytes(8, "little"))
    file.write(header)
    for tensor in tensors.values():
        data = _bytes(tensor.detach().cpu())
        digest.update(data)
        file.write(data)
    return digest.hexdigest()


def _read(file: BinaryIO, path: Path) -> Any:
    size = os.fstat(file.fileno()).st_size
    header, metadata, entries = _read_header(file, path, size)
    tensors: dict[str, Tensor] = {}
    digest = hashlib.sha256(header.replace(metadata["sha256"].encode(), _NO_HASH.encode(), 1))
    room = size - 8 - len(header)
    offset = 0
    for name, entry in entries.items():
        dtype, shape, place = entry
        # In whole numbers, before memory is taken: what a damaged header claims may be anything.
        end = offset + math.prod(shape) * dtype.itemsize
        if place != [offset, end] or end > room:
            raise CheckpointError(f"{path} is damaged: tensor {name!r} is not where it should be")
        tensor = torch.empty(shape, dtype=dtype)
        data = _bytes(tensor)
        if file.readinto(data) != tensor.nbytes:  # type: ignore[attr-defined]
            raise CheckpointError(f"{path} is truncated: tensor {name!r} is cut off{_INSTEAD}")
        digest.update(data)
        tensors[name] = tensor
        offset = end
    if file.read(1):
        raise CheckpointError(f"{path} is damaged: bytes follow its end")
    if digest.hexdigest() != metadata["sha256"]:
        raise CheckpointError(
            f"{path} was altered after it was written: its SHA-256 differs{_INSTEAD}"
        )
    try:
        return _decode(json.loads(metadata["state"]), tensors)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: its tree cannot be read") from error


def _read_header(
    file: BinaryIO, path: Path, size: int
) -> tuple[bytes, dict[str, str], dict[str, _Entry]]:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or not 2 <= length <= _MOST_HEADER:
        raise CheckpointError(f"{path} is not a checkpoint of this library ({size} bytes)")
    if length > size - 8:
        raise CheckpointError(
            f"{path} is truncated within its header, or not a checkpoint{_INSTEAD}"
        )
    header = file.read(length)
    try:
        parts = json.loads(header)
        metadata = parts.pop("__metadata__")
        schema = int(metadata["schema"])
        known = metadata["format"] == FORMAT and _is_hash(metadata["sha256"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of this library, or damaged") from error
    if not known:
        raise CheckpointError(f"{path} is not a checkpoint of this library, or damaged")
    if schema != SCHEMA:
        age = "newer" if schema > SCHEMA else "older"
        raise CheckpointError(
            f"{path} has the {age} schema {schema}; this version of lifelong reads {SCHEMA}; "
            "load it with the version that wrote it"
        )
    entries = {name: _entry(part, f"{path} is damaged: {name!r}") for name, part in parts.items()}
    end = max((place[1] for _, _, place in entries.values()), default=0)
    if size < 8 + length + end:
        raise CheckpointError(f"{path} is truncated: {size} of {8 + length + end} bytes{_INSTEAD}")
    return header, metadata, entries


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _entry(part: Any, complaint: str) -> _Entry:
    try:
        dtype, shape, place = _DTYPES[part["dtype"]], part["shape"], part["data_offsets"]
        whole = len(place) == 2 and all(type(n) is int and n >= 0 for n in (*shape, *place))
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{complaint} is ill-described") from error
    if not whole:
        raise CheckpointError(f"{complaint} is ill-described")
    return dtype, shape, place


def _encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        if value.dtype not in _NAMES or value.layout != torch.strided or value.is_meta:
            raise CheckpointError(
                f"{name}: a tensor of {value.dtype}, {value.layout}, on {value.device} cannot be "
                "saved"
            )
        while name in tensors:  # {"a/b": ...} beside {"a": {"b": ...}}, or 1 beside "1"
            name += "'"
        tensors[name] = value
        return {"$tensor": name}
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, list | tuple):
        parts = [_encode(part, f"{name}/{i}", tensors) for i, part in enumerate(value)]
        return parts if isinstance(value, list) else {"$tuple": parts}
    if isinstance(value, dict):
        parts = [(key, _encode(part, f"{name}/{key}", tensors)) for key, part in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return dict(parts)
        return {"$dict": [[_encode(key, name, tensors), part] for key, part in parts]}
    raise CheckpointError(
        f"{name}: {type(value).__name__} cannot be saved; a state holds tensors, numbers, "
        "strings, None, and lists, tuples and dicts of them"
    )


def _decode(tree: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, list):
        return [_decode(part, tensors) for part in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1:
        [(kind, value)] = tree.items()
        if kind == "$tensor":
            return tensors[value]
        if kind == "$float":
            return float(value)
        if kind == "$tuple":
            return tuple(_decode(part, tensors) for part in value)
        if kind == "$dict":
            return {_decode(key, tensors): _decode(part, tensors) for key, part in value}
    return {key: _decode(part, tensors) for key, part in tree.items()}


def _bytes(tensor: Tensor) -> memoryview:
    # A tensor of one element may have any stride, and then could not be viewed as bytes.
    whole = tensor.contiguous()
    return whole.as_strided((whole.numel(),), (1,)).view(torch.uint8).numpy().data


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
