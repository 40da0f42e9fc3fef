"""Every mistake in shards gives one message before any process starts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_shards import documents, write_source

from data.batches.build_plan import sources_without_rows
from data.batches.check_training_data import check_training_data
from data.batches.loader import Loader
from data.batches.training_data import DataStage, with_stages
from data.config import DataConfig
from data.shards.index import open_shards, shard_tokenizer
from settings import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("english", "french"):
        train = [documents(rng, tokens=n) for n in (300, 200)]
        masks = {1: [[True] * len(document) for document in train[1]]}
        write_source(tmp_path / "shards", name, train=train, held_out=[documents(rng, tokens=40)], loss=masks)
    return tmp_path / "shards"


def edit_info(source: Path, edit: Callable[[dict], None]) -> None:
    info = json.loads((source / "dataset.json").read_text())
    edit(info)
    (source / "dataset.json").write_text(json.dumps(info))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_good_shards_pass(folder: Path) -> None:
    shards = check_training_data(DataConfig(shards=folder), 32)
    assert shards.names == ("english", "french")
    tokenizer = shard_tokenizer(DataConfig(shards=folder))
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.path) == (1000, 0, "tokenizer.json")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.shards = .*absent: there is no such folder; .* `lehr data build`"):
        check_training_data(DataConfig(shards=tmp_path / "absent"), 32)
    with pytest.raises(UserError, match=r"it holds no source; .* `lehr data build`"):
        check_training_data(DataConfig(shards=tmp_path), 32)


def test_unknown_source_in_a_mixture(folder: Path) -> None:
    with pytest.raises(UserError, match=r'data.mixture: no shards of a source "frnch" .*; did you mean "french"\?'):
        check_training_data(DataConfig(shards=folder, mixture={"english": 1, "frnch": 1}), 32)
    stages = (DataStage("data.mixture", 0, {}), DataStage("stages.1.mixture", 3, {"german": 1}))
    with pytest.raises(UserError, match=r'stages.1.mixture: no shards of a source "german"'):
        open_shards(with_stages(DataConfig(shards=folder), stages))


def test_a_source_of_the_config_without_shards(folder: Path) -> None:
    """It is refused if all sources are drawn from, and ignored if the mixture does not name it."""
    shutil.rmtree(folder / "french")
    fields = {**DataConfig(shards=folder).__dict__, "sources": {"english": None, "french": None}}
    with pytest.raises(UserError, match=r"data.sources.french: its shards are not in .*; build them with"):
        check_training_data(DataConfig.model_construct(**fields), 32)
    shards = check_training_data(DataConfig.model_construct(**{**fields, "mixture": {"english": 1}}), 32)
    assert shards.names == ("english",)


def test_a_source_that_the_build_left_empty_is_no_mistake(folder: Path) -> None:
    """A selection may choose nothing of a source."""
    shutil.rmtree(folder / "french")
    fields = {**DataConfig(shards=folder).__dict__, "sources": {"english": None, "french": None}}
    counts = {"english": {"documents": {"train": 2, "held_out": 0}}, "french": {"documents": {"train": 3}}}
    (folder / "build.json").write_text(json.dumps({"sources": counts}))
    with pytest.raises(UserError, match=r"data.sources.french: its shards are not in"):
        check_training_data(DataConfig.model_construct(**fields), 32)
    counts["french"]["documents"] = {"train": 0, "held_out": 0}
    (folder / "build.json").write_text(json.dumps({"sources": counts}))
    assert check_training_data(DataConfig.model_construct(**fields), 32).names == ("english",)


@pytest.mark.parametrize("name", ["train/00001.ds", "train/00001.ds.index", "train/00001.ds.loss", "held_out/00000.ds"])
def test_missing_file(folder: Path, name: str) -> None:
    (folder / "english" / name).unlink()
    with pytest.raises(UserError, match=rf"shard .*{name} cannot be opened \(No such file .* `lehr data build`"):
        check_training_data(DataConfig(shards=folder, verify_hashes=False), 32)


@pytest.mark.parametrize("name", ["train/00000.ds", "train/00000.ds.index", "train/00001.ds.loss", "held_out/00000.ds"])
@pytest.mark.parametrize("change", [-2, 2])
def test_file_of_another_size(folder: Path, name: str, change: int) -> None:
    path = folder / "english" / name
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + bytes(change))
    message = (
        rf"shard .*{name} has {len(content) + change} bytes but .*dataset.json says {len(content)}: it is cut short"
    )
    with pytest.raises(UserError, match=message):
        check_training_data(DataConfig(shards=folder, verify_hashes=False), 32)


def test_index_of_another_shard(folder: Path) -> None:
    """The index has the right size, so only its last end shows the mistake."""
    path = folder / "english/train/00000.ds.index"
    ends = np.fromfile(path, np.uint64)
    (ends + np.uint64(1)).tofile(path)
    with pytest.raises(
        UserError, match=r"index ends with 301 but the shard has 300 tokens: they do not belong together"
    ):
        check_training_data(DataConfig(shards=folder, verify_hashes=False), 32)


def test_altered_tokenizer(folder: Path) -> None:
    """The tokenizer is compared even without `data.verify_hashes`, because it is small."""
    flip(folder / "tokenizer.json")
    with pytest.raises(
        UserError, match=r"tokenizer.json was altered since the shards were built: its SHA-256 is [0-9a-f]"
    ):
        check_training_data(DataConfig(shards=folder, verify_hashes=False), 32)


def test_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer.json cannot be read \(No such file"):
        check_training_data(DataConfig(shards=folder), 32)


def test_two_tokenizers(folder: Path) -> None:
    edit_info(folder / "french", lambda info: info["tokenizer"].update(sha256="f" * 64))
    with pytest.raises(UserError, match=r'sources "english" and "french" were tokenized by different tokenizers'):
        check_training_data(DataConfig(shards=folder), 32)
    check_training_data(DataConfig(shards=folder, mixture={"english": 1}), 32)


def test_sequence_longer_than_a_source(folder: Path) -> None:
    """A mixture that names it is refused, that of a later stage too, but not one in which it has weight 0."""
    message = r'train.seq_length = 500: source "french" has 500 tokens in its train split, .* at most 499, or leave .* '
    stages = (DataStage("data.mixture", 0, {"long": 1}), DataStage("stages.1.mixture", 3, {"french": 1}))
    write_source(folder, "long", train=[documents(np.random.default_rng(0), tokens=600)])
    for config, key in (
        (DataConfig(shards=folder, mixture={"long": 1, "french": 1}), "data.mixture"),
        (with_stages(DataConfig(shards=folder, mixture={"long": 1}), stages), "stages.1.mixture"),
    ):
        with pytest.raises(UserError, match=message + key):
            check_training_data(config, 500)
        check_training_data(config, 499)
    check_training_data(DataConfig(shards=folder, mixture={"long": 1, "french": 0}), 500)


def test_a_source_without_a_row_is_left_out_where_weights_go_by_tokens(folder: Path) -> None:
    """The rows are those of a run whose mixture names the other source alone."""
    write_source(folder, "long", train=[documents(np.random.default_rng(0), tokens=1200)])
    fields = {**DataConfig(shards=folder).__dict__, "sources": dict.fromkeys(("english", "french", "long", "none"))}
    (folder / "build.json").write_text(json.dumps({"sources": {"none": {"documents": {"train": 0}}}}))
    config = DataConfig.model_construct(**fields)
    shards = check_training_data(config, 500)
    assert sources_without_rows(config, shards, 500) == {"english": 500, "french": 500, "none": 0}
    assert sources_without_rows(config, shards, 499) == {"none": 0}
    assert sources_without_rows(DataConfig(shards=folder, mixture={"long": 1}), shards, 500) == {}
    common = {"seed": 0, "seq_length": 500, "rows_per_step_global": 3}
    with Loader(config, **common) as loader, Loader(DataConfig(shards=folder, mixture={"long": 1}), **common) as named:
        for step in range(4):
            np.testing.assert_array_equal(loader.batch(step).tokens, named.batch(step).tokens)
    with pytest.raises(
        UserError, match=r"no source of .* has the 1301 tokens .* the longest has 1200: .* at most 1199"
    ):
        check_training_data(DataConfig(shards=folder), 1300)


def test_a_source_without_training_tokens(folder: Path) -> None:
    """It is ignored if weights go by tokens; a mixture that names it is refused."""
    write_source(folder, "empty", train=[])
    check_training_data(DataConfig(shards=folder), 32)
    with pytest.raises(
        UserError, match=r'source "empty" has 0 tokens in its train split, .*seq_length \+ 1; leave the'
    ):
        check_training_data(DataConfig(shards=folder, mixture={"empty": 1, "french": 1}), 32)
    shutil.rmtree(folder / "english")
    shutil.rmtree(folder / "french")
    with pytest.raises(
        UserError, match=r"no source of .* has the 33 tokens that a row takes in its train split; the longest has 0$"
    ):
        check_training_data(DataConfig(shards=folder), 32)
    with pytest.raises(
        UserError, match=r"no source of .* has the 33 tokens that a row takes in its train split; the longest has 0$"
    ):
        Loader(DataConfig(shards=folder), seed=0, seq_length=32, rows_per_step_global=1)


def test_a_broken_dataset_json(folder: Path) -> None:
    (folder / "english/dataset.json").write_text("{")
    with pytest.raises(UserError, match=r"english/dataset.json cannot be read"):
        check_training_data(DataConfig(shards=folder), 32)
    edit_info(folder / "french", lambda info: info.pop("licence"))
    with pytest.raises(UserError, match=r"french/dataset.json:\n  licence: is required"):
        check_training_data(DataConfig(shards=folder, mixture={"french": 1}), 32)
