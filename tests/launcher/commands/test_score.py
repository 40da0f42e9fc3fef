"""`lehr score` on two runs of different seeds: its files and report, a kill and a resume, and a build that selects."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_runs import LLAMA, SEQ_LENGTH, checkpoint_model, done, our_logits, refused, write_config
from made_text import make_config, make_text, write_jsonl
from processes import lehr, start_lehr
from small_runs import wait_until
from torch import nn

from data.config import DataConfig
from data.pipeline.build import build
from data.shards.dataset_json import read_dataset
from data.shards.index import open_shards

pytestmark = pytest.mark.slow

TEXTS = [make_text(seed, words=30 + seed % 60) for seed in range(400)]
STEPS = (3, 6)


def shard_config(folder: Path, shards: str, select: dict[str, object] | None) -> DataConfig:
    sources = {"made": {"name": "jsonl", "paths": [str(folder / "made.jsonl")]}}
    tokenizer = {"path": str(folder / "all/tokenizer.json")} if select else {"vocab_size": 300}
    return make_config(
        folder, shards, sources=sources, select=select, tokenizer=tokenizer, task_bytes=30_000, deduplicate={}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of all documents and of two folds, and runs of two seeds that were trained on one fold."""
    path = tmp_path_factory.mktemp("score")
    write_jsonl(path / "made.jsonl", TEXTS)
    build(shard_config(path, "all", None))
    for fold, order in (("fold_a", "highest"), ("fold_b", "lowest")):
        select = {"selector": "random", "choose": "threshold", "threshold": 0.5, "order": order}
        build(shard_config(path, fold, select))
    config = write_config(
        path, path / "fold_a", model=LLAMA, evaluate={"every_steps": 0}, checkpoint={"every_steps": 3, "keep_last": 9}
    )
    for seed in (1, 2):
        done("train", config, f"run.name=seed_{seed}", f"run.seed={seed}")
    return path


def command(folder: Path, output: Path) -> list[str | Path]:
    return ["score", folder / "runs/seed_1", folder / "runs/seed_2", folder / "fold_b", "--output", output]


@pytest.fixture(scope="module")
def scored(folder: Path) -> Path:
    printed = lehr(*command(folder, folder / "scores"))
    assert printed.returncode == 0, printed.stderr
    assert "warning" not in printed.stderr
    assert "left" in printed.stdout or "100% of all" in printed.stdout
    assert "Spearman between runs" in printed.stdout
    return folder / "scores"


def documents_of(shards: Path) -> dict[int, list[int]]:
    """The tokens of each document by its hash, read as bytes."""
    found = {}
    for file in read_dataset(shards / "made").splits["train"].files:
        path = shards / "made" / file.path
        tokens, ends = np.fromfile(path, dtype="<u2"), np.fromfile(f"{path}.index", dtype="<u8").astype(int)
        hashes = np.fromfile(f"{path}.hashes", dtype="<u8").tolist()
        found.update(zip(hashes, (part.tolist() for part in np.split(tokens, ends[:-1])), strict=True))
    return found


def table_of(scored: Path, run: str, step: int) -> dict[int, tuple[int, float, float, float]]:
    """(tokens, el2n, loss, accuracy) of each document by its hash."""
    found = {}
    for path in sorted((scored / run / f"step-{step:08d}/made").glob("*.parquet")):
        rows = pq.read_table(path).to_pydict()
        assert list(rows) == ["hash", "tokens", "el2n", "loss", "accuracy"]
        found.update({hash_: values for hash_, *values in zip(*rows.values(), strict=True)})
    return found


def test_the_two_folds_are_all_documents(folder: Path) -> None:
    parts = [documents_of(folder / fold) for fold in ("fold_a", "fold_b")]
    assert not parts[0].keys() & parts[1].keys()
    assert parts[0].keys() | parts[1].keys() == documents_of(folder / "all").keys()


def test_scores_are_those_of_plain_torch(folder: Path, scored: Path) -> None:
    model = checkpoint_model(folder / "runs/seed_2/checkpoints/step-00000006")
    table, documents = table_of(scored, "seed_2", 6), documents_of(folder / "fold_b")
    assert table.keys() == documents.keys()
    for hash_, tokens in [*documents.items()][:30]:
        rows = []
        for start in range(0, len(tokens) - 1, SEQ_LENGTH):
            targets = torch.tensor(tokens[start + 1 : start + SEQ_LENGTH + 1])
            logits = our_logits(model, torch.tensor([tokens[start : start + len(targets)]]))[0].double()
            onehot = nn.functional.one_hot(targets, logits.shape[1])
            nll = nn.functional.cross_entropy(logits, targets, reduction="none")
            rows.append(
                torch.stack([(logits.softmax(1) - onehot).norm(dim=1), nll, (logits.argmax(1) == targets).double()])
            )
        wanted = torch.cat(rows, 1).mean(1).tolist()
        assert table[hash_][0] == len(tokens) - 1
        np.testing.assert_allclose(table[hash_][1:], wanted, rtol=1e-5, atol=1e-5)


def test_the_report_has_every_checkpoint_and_how_scores_agree(scored: Path) -> None:
    report = json.loads((scored / "report.json").read_text())
    assert [(row["run"], row["step"]) for row in report["checkpoints"]] == [
        (run, step) for run in ("seed_1", "seed_2") for step in STEPS
    ]
    row = report["checkpoints"][-1]
    losses = np.array([values[2] for values in table_of(scored, "seed_2", 6).values()])
    assert row["loss"] == pytest.approx(losses.mean())
    assert row["documents"] == len(losses) == report["documents"]
    assert set(report["scores"]) == {"loss", "el2n", "lim"}
    mean = {
        run: {
            h: v[1] + w[1]
            for (h, v), w in zip(table_of(scored, run, 3).items(), table_of(scored, run, 6).values(), strict=True)
        }
        for run in ("seed_1", "seed_2")
    }
    ranks = [np.argsort(np.argsort([run[hash_] for hash_ in mean["seed_1"]])) for run in mean.values()]
    found = report["scores"]["el2n"]["spearman_between_runs"]["seed_1, seed_2"]
    assert found == pytest.approx(np.corrcoef(ranks)[0, 1], abs=1e-3)
    assert -1 <= report["scores"]["el2n"]["spearman_with_loss"] <= 1


def test_a_killed_command_goes_on_with_the_files_that_are_missing(folder: Path, scored: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores"
    wanted = {path.relative_to(scored): path.read_bytes() for path in scored.rglob("*.parquet")}
    assert len(wanted) > len(STEPS) * 2  # several shards
    process = start_lehr(*command(folder, output))
    wait_until(lambda: any(output.rglob("[0-9]*.parquet")) or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode in (128 + signal.SIGTERM, 0)
    finished = {path: path.stat().st_mtime_ns for path in output.rglob("*.parquet")}
    assert finished
    assert not list(output.rglob(".*"))
    again = lehr(*command(folder, output))
    assert again.returncode == 0, again.stderr
    written = {path: path.stat().st_mtime_ns for path in output.rglob("*.parquet")}
    assert finished.items() <= written.items()
    assert {path.relative_to(output): path.read_bytes() for path in written} == wanted
    altered, *others = sorted(written)
    os.truncate(altered, 10)
    mended = lehr(*command(folder, output))
    assert mended.returncode == 0
    assert altered.read_bytes() == wanted[altered.relative_to(output)]
    assert all(path.stat().st_mtime_ns == written[path] for path in others)


@pytest.mark.parametrize("layout", [{"data": 3}, {"tensor": 2, "data": 2}, {"tensor": 2, "pipeline": 2}])
def test_any_layout_gives_the_same_scores(folder: Path, scored: Path, tmp_path: Path, layout: dict[str, int]) -> None:
    options = [word for name, size in layout.items() for word in (f"--{name}", str(size))]
    printed = lehr(*command(folder, tmp_path / "scores"), *options)
    assert printed.returncode == 0, printed.stderr
    assert "% of all" in printed.stdout
    wanted = {path.relative_to(scored): pq.read_table(path) for path in scored.rglob("*.parquet")}
    assert {path.relative_to(tmp_path / "scores") for path in (tmp_path / "scores").rglob("*.parquet")} == set(wanted)
    for path, table in wanted.items():
        found = pq.read_table(tmp_path / "scores" / path)
        assert found["hash"] == table["hash"]
        assert found["tokens"] == table["tokens"]
        for name in ("el2n", "loss", "accuracy"):
            np.testing.assert_allclose(found[name], table[name], rtol=1e-5, atol=1e-5)


def test_norms_of_gradients_on_request(folder: Path, scored: Path, tmp_path: Path) -> None:
    output, arguments = tmp_path / "scores", ["--steps", "6", "--grand"]
    shutil.copytree(scored, output)
    kept = (output / "seed_1/step-00000003/made/00000.parquet").stat().st_mtime_ns
    printed = lehr(*command(folder, output), *arguments, "--data", "2")
    assert printed.returncode == 0, printed.stderr
    assert "grand: Spearman between runs" in printed.stdout
    model = checkpoint_model(folder / "runs/seed_2/checkpoints/step-00000006")
    documents = documents_of(folder / "fold_b")
    norms = {}
    for path in sorted((output / "seed_2/step-00000006/made").glob("*.parquet")):
        norms.update(zip(*(pq.read_table(path)[name].to_pylist() for name in ("hash", "grand")), strict=True))
    assert norms.keys() == documents.keys()
    for hash_, tokens in [*documents.items()][:10]:
        losses = []
        for start in range(0, len(tokens) - 1, SEQ_LENGTH):
            targets = torch.tensor(tokens[start + 1 : start + SEQ_LENGTH + 1])
            hidden = model(torch.tensor([tokens[start : start + len(targets)]]), None, torch.arange(len(targets))[None])
            losses.append(nn.functional.cross_entropy(model.logits(hidden)[:, 0], targets, reduction="none"))
        gradients = torch.autograd.grad(torch.cat(losses).mean(), list(model.parameters()))
        assert norms[hash_] == pytest.approx(float(torch.cat([g.flatten() for g in gradients]).norm()), rel=1e-4)
    again = {path: path.stat().st_mtime_ns for path in output.rglob("*.parquet")}
    assert lehr(*command(folder, output)).returncode == 0  # scores with norms serve without them too
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.parquet")} == again
    assert kept == again[output / "seed_1/step-00000003/made/00000.parquet"]
    assert "leave out --tensor" in refused(*command(folder, output), "--grand", "--tensor", "2")


def test_ranks_that_are_stopped_leave_finished_files_and_layouts_that_do_not_fit_are_refused(
    folder: Path, scored: Path, tmp_path: Path
) -> None:
    output = tmp_path / "scores"
    process = start_lehr(*command(folder, output), "--data", "2")
    wait_until(lambda: any(output.rglob("[0-9]*.parquet")) or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode in (128 + signal.SIGTERM, 0)
    assert process.returncode == 0 or "goes on with the files that are missing" in errors
    assert lehr(*command(folder, output)).returncode == 0
    names = {path.relative_to(scored) for path in scored.rglob("*.parquet")}
    assert {path.relative_to(output) for path in output.rglob("*.parquet")} == names
    assert "parallel.tensor = 3" in refused("score", folder / "runs/seed_1", folder / "fold_b", "--tensor", "3")


def test_a_run_that_knows_the_documents_and_wrong_steps_sources_and_names(folder: Path, tmp_path: Path) -> None:
    run = folder / "runs/seed_1"
    known = lehr("score", run, folder / "all", "--steps", "6", "--source", "made", "--output", tmp_path / "known")
    assert known.returncode == 0, known.stderr
    counts = [len(documents_of(folder / shards)) for shards in ("fold_a", "all")]
    assert f"was trained on {counts[0]} of the {counts[1]} documents that it scores" in known.stderr
    assert [path.name for path in (tmp_path / "known/seed_1").iterdir()] == ["step-00000006"]
    assert "it has 3, 6" in refused("score", run, folder / "fold_b", "--steps", "3,7")
    assert 'or "all"' in refused("score", run, folder / "fold_b", "--steps", "last")
    assert 'did you mean "made"' in refused("score", run, folder / "fold_b", "--source", "mad")
    assert "two of the runs are named seed_1" in refused("score", run, run, folder / "fold_b")
    assert "no run folder" in refused("score", folder / "all", folder / "fold_b")
    assert "the shards of a source" in refused("score", run, folder / "fold_b", "--output", folder / "fold_b/made")


@pytest.mark.parametrize("selector", ["el2n", "lim"])
def test_a_build_chooses_by_the_scores(folder: Path, scored: Path, selector: str) -> None:
    tables = [[table_of(scored, run, step) for step in STEPS] for run in ("seed_1", "seed_2")]
    hashes = list(tables[0][0])
    values = np.array([[[table[hash_] for hash_ in hashes] for table in run] for run in tables])  # [runs, steps, N, 4]
    if selector == "lim":
        reward = values[..., 3]
        mean = reward.mean(-1, keepdims=True)
        scores = (1 - ((reward - mean) ** 2).sum(1) / ((1 - mean) ** 2).sum(1)).mean(0)
    else:
        scores = values[..., 1].mean((0, 1))
    best = {hashes[place] for place in np.argsort(-scores)[:40]}
    select = {"selector": {"name": selector, "paths": [str(scored)]}, "choose": "documents", "amount": 40}
    result = build(shard_config(folder, selector, select))
    assert documents_of(folder / selector).keys() == best
    not_scored = len(documents_of(folder / "fold_a"))
    assert not_scored in result.sources["made"].not_selected.values()
    info = open_shards(DataConfig(shards=folder / selector)).datasets["made"]
    assert info.selection is not None
    assert any(name.endswith(".parquet") for name in info.selection.inputs)
