"""The texts of selection.md that depend on no run: its head, and what was fixed before the runs."""

from __future__ import annotations

from selection_plan import LONGER, MAIN, SEEDS, SHARES

from laws.scaling.repetition import PUBLISHED_R_D

FIXED = f"""## What was fixed before the runs

This section was written, and committed with the plan (selection_plan.py), before any run but those of the lr
was trained.

- **Question.** Does a small model that is trained on the choice of a selector have a lower held-out loss on
  the target than one that is trained on a random choice, at the same tokens? Does ZIP-FIT do better than a
  classifier, DSIR, and controls that copy only its sources or its lengths?
- **Pool.** configs/selection.yaml: about 10 MB of verse, English and French introductions, C, and an
  ontology, with under 2% each of mathematical prose (mpmath) and Python (click). Targets and evaluation are
  other packages: SymPy's documentation and Werkzeug's code, divided between the two by the names of the
  files. Near copies of the evaluation leave the pool and the targets.
- **Arms**, each {MAIN}% of the bytes of the pool: `random`; `el2n` (highest after the first 5%) and `loss`
  (lowest), by one small model for each half of the pool, which scores the other half; and for each target
  `zipfit` (100 targets, gzip 6), `classifier`, `dsir` (temperature 1), `same_sources` and `length_matched`
  (both of ZIP-FIT). `random`, `el2n` and `loss` know no target: one set of runs serves both.
- **Runs.** One model, one number of tokens and one lr for all arms. The lr was searched on `random` with
  seed 1. Seeds {SEEDS[0]} to {SEEDS[-1]} are paired: a seed means the same initial weights in all arms.
- **Measure.** The loss on the held-out text of the target after the last step, in nats a token; all arms
  have one tokenizer.
- **Noise.** loss = arm + seed + noise; the variance of the noise is pooled over the arms of a target. A
  difference under two standard errors is "not told apart". Of comparisons in which nothing differs, about
  one in twenty is told apart by chance.
- **Equal compute.** The CPU time of a selector (its build minus that of `random`; for `el2n` and `loss`
  also their models) is counted in tokens of training. An arm is compared with a random half of the pool
  that is trained on as many tokens in all, by the loss of runs of 1, {" and ".join(map(str, LONGER))} times
  the tokens, linear in the logarithm of the tokens.
- **Kept share.** `random`, `zipfit` and `classifier` at {", ".join(map(str, SHARES))}%, all at the same
  tokens, so that the smaller shares are repeated. The repetition law (arXiv:2305.16264) says what repeated
  tokens are worth; R_D = {PUBLISHED_R_D:g} is its published value, not fitted here.
"""

HEAD = """# Does a selection help?

    make proof-selection        (python benchmarks/selection_proof.py; it goes on from the lines of selection.jsonl)

This page is written by the command, {date}, from selection.jsonl (a line for each run) and selection_choices.jsonl
(a line for each selection). The committed lines are from 2 cores of an x86-64 server that was busy with other work;
times are times on the CPU.
"""
