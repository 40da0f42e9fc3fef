"""Safetensors files: read as safetensors writes them, written as safetensors reads them, and never trusted."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from live_memory import LiveMemory
from safetensors.torch import load_file, save_file

from settings import UserError
from settings.files import file_sha256
from train.checkpoint.resharding import TensorFiles
from train.checkpoint.safetensors_file import slices_metadata, write_safetensors


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
def test_slices_of_several_files_make_a_full_tensor(dim: int, tmp_path: Path) -> None:
    whole = torch.arange(24.0).view(4, 6)
    parts = whole.split([1, 3] if dim == 0 else [2, 4], dim)
    paths = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for number, part in enumerate(parts):
        offset = (number * parts[0].shape[0], 0) if dim == 0 else (0, number * parts[0].shape[1])
        write_piece(paths[number], "w", part, offset)
    assert torch.equal(TensorFiles(paths).read("w"), whole)
    with pytest.raises(UserError, match="w is not complete"):
        TensorFiles(paths[1:])
    with pytest.raises(UserError, match="w is not complete"):
        TensorFiles([*paths, paths[0]])


def cut(folder: Path, whole: torch.Tensor, tp_size: int, dim: int) -> TensorFiles:
    """Writes the files of `tp_size` tensor ranks."""
    parts = whole.chunk(tp_size, dim)
    for number, part in enumerate(parts):
        offset = [0] * whole.ndim
        offset[dim] = number * parts[0].shape[dim]
        write_piece(folder / f"{number}.safetensors", "w", part, tuple(offset))
    return TensorFiles(sorted(folder.glob("*.safetensors")))


SHAPES = [(8, 12), (4, 3, 8), (8, 40_000)]  # of the last, what is wanted of a row is read alone
_NEEDS_CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICES = ["cpu", pytest.param("cuda", marks=_NEEDS_CUDA)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("had", "wanted"), [(1, 2), (2, 1), (2, 4), (4, 2)])
def test_any_part_of_any_cut_is_read_in_place(
    had: int, wanted: int, shape: tuple[int, ...], device: str, tmp_path: Path
) -> None:
    whole = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    for had_dim, dim in itertools.product({0, len(shape) - 1}, repeat=2):
        folder = tmp_path / f"{had_dim}-{dim}"
        folder.mkdir()
        files = cut(folder, whole, had, had_dim)
        for rank, part in enumerate(whole.chunk(wanted, dim)):
            offsets = [0] * whole.ndim
            offsets[dim] = rank * part.shape[dim]
            for dtype in (torch.float32, torch.bfloat16):
                around = torch.full((*part.shape, 2), 7.0, dtype=dtype, device=device)
                target = around[..., 0]  # not contiguous
                files.read_into("w", target, offsets)
                assert torch.equal(target.cpu(), part.to(dtype))
                assert (around[..., 1] == 7).all()
            target = torch.full(part.shape, 7.0, device=device)
            files.read_into("w", target, offsets)
            assert torch.equal(target.cpu(), part)


def test_a_number_and_nothing_are_read(tmp_path: Path) -> None:
    save_file({"x": torch.tensor(3.0), "none": torch.zeros(2, 0)}, tmp_path / "x.safetensors")
    files = TensorFiles([tmp_path / "x.safetensors"])
    assert torch.equal(files.read("x"), torch.tensor(3.0))
    assert torch.equal(files.read("none"), torch.zeros(2, 0))


def test_a_part_takes_no_more_memory_than_a_piece(tmp_path: Path) -> None:
    """Nothing is copied either if the files hold the tensor as it is wanted."""
    whole = torch.arange(2.0**22).view(2**11, 2**11)  # 16 MiB
    files = cut(tmp_path, whole, 2, 0)
    for rows, columns, most in ((slice(512, 1536), slice(0, 2048), 0), (slice(0, 2048), slice(512, 1536), 2**23)):
        target = torch.zeros(whole[rows, columns].shape)
        with LiveMemory() as memory:
            files.read_into("w", target, (rows.start, columns.start))
        assert torch.equal(target, whole[rows, columns])
        assert memory.most <= most


def test_a_part_that_the_files_do_not_hold(tmp_path: Path) -> None:
    files = cut(tmp_path, torch.zeros(4, 6), 2, 0)
    with pytest.raises(UserError, match=r"w is \[4, 6\]: it has no part \[3, 6\] at \[2, 0\]"):
        files.read_into("w", torch.zeros(3, 6), (2, 0))
    with pytest.raises(UserError, match="v is in none of the files"):
        files.read_into("v", torch.zeros(3, 6), (0, 0))
    # As many values as a whole has, but some twice and others not at all.
    write_piece(tmp_path / "2.safetensors", "w", torch.zeros(2, 6), (6, 0))
    write_piece(tmp_path / "3.safetensors", "w", torch.zeros(2, 6), (2, 0))
    with pytest.raises(UserError, match="w is not complete"):
        TensorFiles(sorted(tmp_path.glob("*.safetensors")))


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
    with pytest.raises(UserError, match=r"x\.safetensors: x is of type \w+; lehr reads F32, F16, BF16$"):
        TensorFiles([tmp_path / "x.safetensors"])
    assert TensorFiles([tmp_path / "x.safetensors"], skip=["x*"]).shapes == {}


def test_bools_are_read_but_where_weights_are_wanted(tmp_path: Path) -> None:
    mask = torch.arange(12).view(3, 4) % 5 == 0
    save_file({"x": mask}, tmp_path / "x.safetensors")
    assert torch.equal(TensorFiles([tmp_path / "x.safetensors"]).read("x"), mask)
    with pytest.raises(UserError, match=r"x\.safetensors: x is of type BOOL; lehr reads F32, F16, BF16$"):
        TensorFiles([tmp_path / "x.safetensors"], only_floats=True)


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
