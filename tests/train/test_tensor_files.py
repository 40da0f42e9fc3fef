"""Safetensors files: read as safetensors writes them, written as safetensors reads them, and never trusted."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from settings import UserError
from settings.files import file_sha256
from train.safetensors_file import slices_metadata, write_safetensors
from train.tensor_files import TensorFiles


def some(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"a": (3, 5), "b.c": (7,), "empty": (0, 4), "one": (1,)}
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_against_safetensors(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = some(dtype)
    save_file(tensors, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    files = TensorFiles([tmp_path / "theirs.safetensors"])
    assert files.shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        assert torch.equal(files.read(name), tensor)
        assert files.read(name).dtype == dtype
    path = tmp_path / "ours.safetensors"
    written = write_safetensors(path, files.shapes, tensors.values(), dtype=dtype, metadata={"format": "pt"})
    assert written == (path.stat().st_size, file_sha256(path))
    again = load_file(path)
    assert list(again) == list(tensors)
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


def test_float32_is_rounded_to_bfloat16_as_torch_does(tmp_path: Path) -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(2))
    write_safetensors(tmp_path / "x.safetensors", {"x": (1000,)}, [values], dtype=torch.bfloat16, metadata={})
    assert torch.equal(load_file(tmp_path / "x.safetensors")["x"], values.bfloat16())


def write_piece(path: Path, name: str, piece: torch.Tensor, offset: tuple[int, ...]) -> None:
    shapes = {name: tuple(piece.shape)}
    write_safetensors(path, shapes, [piece], dtype=torch.float32, metadata=slices_metadata({name: offset}))


@pytest.mark.parametrize("dim", [0, 1])
def test_pieces_of_several_files_make_a_whole(dim: int, tmp_path: Path) -> None:
    whole = torch.arange(24.0).view(4, 6)
    parts = whole.split([1, 3] if dim == 0 else [2, 4], dim)
    paths = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for number, part in enumerate(parts):
        offset = (number * parts[0].shape[0], 0) if dim == 0 else (0, number * parts[0].shape[1])
        write_piece(paths[number], "w", part, offset)
    assert torch.equal(TensorFiles(paths).read("w"), whole)
    with pytest.raises(UserError, match="w is not whole"):
        TensorFiles(paths[1:])
    with pytest.raises(UserError, match="w is not whole"):
        TensorFiles([*paths, paths[0]])


def test_a_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for content in (
        b"",
        b"short",
        b"\xff" * 64,
        (8).to_bytes(8, "little") + b"not json",
        (2).to_bytes(8, "little") + b"[]",
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.safetensors is no safetensors file"):
            TensorFiles([path])
    with pytest.raises(UserError, match="cannot be read"):
        TensorFiles([tmp_path / "missing.safetensors"])


@pytest.mark.parametrize("dtype", [torch.int64, torch.float8_e4m3fn])
def test_other_types_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(4).to(dtype)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="x is of type"):
        TensorFiles([tmp_path / "x.safetensors"])


@given(place=st.integers(0, 400), value=st.integers(0, 255), cut=st.none() | st.integers(0, 400))
@settings(max_examples=300, deadline=None)
def test_whatever_byte_is_altered_it_is_read_or_refused(
    place: int, value: int, cut: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "altered.safetensors"
    save_file(some(), path)
    content = bytearray(path.read_bytes())
    content[place % len(content)] = value
    path.write_bytes(content[:cut])
    with contextlib.suppress(UserError):
        files = TensorFiles([path])
        for name, shape in files.shapes.items():
            assert files.read(name).shape == shape
