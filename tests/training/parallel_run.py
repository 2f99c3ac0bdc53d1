"""Runs of `CASES` on the processes that torchrun starts: `parallel_run.py FOLDER CASE…`.

Each process writes the outcome of each case to FOLDER. `--killable SECONDS FOLDER HOW…` is the plain case, distributed
in these ways one after the other, with checkpoints; rank 0 says every log point and dawdles there, and other processes
are given up after these seconds.
"""

import json
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from small import RECIPE, make_model, make_stream, outcome

from physlm.data.streams import IGNORE
from physlm.models.experts import Experts
from physlm.training.checkpoints import save_model
from physlm.training.distributed import this_process
from physlm.training.execution import Execution
from physlm.training.loop import train
from physlm.training.objectives import Examples, Objective, TokenObjective, next_token_loss
from physlm.training.recipe import MuonRecipe, Recipe

ROWS = 4
EXACT = replace(RECIPE, precision="float32")
MUON = MuonRecipe(**{**vars(EXACT), "matrix_learning_rate": 0.02})
SHORT = replace(EXACT, steps=9)


class EvenRows(TokenObjective):
    """The next token, but every other row is asked nothing, and of the rest one row less than the other."""

    def examples(self, batch, vocab_size):
        del vocab_size
        places = np.arange(batch.targets.shape[1])
        is_asked = (batch.rows[:, None] % 2 == 0) & (places < 3 * (1 + batch.rows[:, None] % 8))
        return Examples(batch.inputs, np.where(is_asked, batch.targets, IGNORE))


@dataclass
class Case:
    how: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    recipe: Recipe = SHORT
    objective: Objective = next_token_loss


CASES = {
    "plain": Case(recipe=EXACT),
    "parts": Case(how={"micro_batches": 2, "checkpoint_activations": True}),
    "uneven": Case(objective=EvenRows()),
    "muon": Case(recipe=replace(MUON, steps=SHORT.steps)),
    "experts": Case(model={"experts": Experts(experts=4, capacity_factor=None, balance_weight=0.0)}),
}


def run(case, execution=Execution(), folder=None, dawdle=0.0, **options):  # noqa: B008
    """One run of a case on this process's rows; the model and its records."""
    process = this_process()
    model = make_model(**case.model)

    def evaluate():
        time.sleep(dawdle)
        return {"norm": model.embed.weight.detach().norm(), "device": str(model.embed.weight.device)}

    records = train(
        model,
        make_stream(batch_size=ROWS // process.ranks, rank=process.rank, ranks=process.ranks),
        case.recipe,
        objective=case.objective,
        evaluate=evaluate,
        log_every=3,
        checkpoint_every=5,
        folder=folder,
        execution=execution,
        **options,
    )
    return model, records


def write(path, model, records):
    path.write_text(json.dumps(outcome(model, records)))


def main(folder, names):
    rank = this_process().rank
    for name in names:
        label, how = name.split("-")
        case = CASES[label]
        model, records = run(case, Execution(distribute=how, **case.how))
        write(folder / f"{name}.{rank}.json", model, records)
        if rank == 0:
            save_model(model, folder / name, data_fingerprint="")
    try:
        train(
            make_model(seed=rank),
            make_stream(batch_size=2, rank=rank, ranks=2),
            EXACT,
            execution=Execution(distribute="ddp"),
        )
    except ValueError as error:
        (folder / f"different.{rank}.txt").write_text(str(error))


def killable(timeout_seconds, folder, hows):
    def report(fraction, message):
        del message
        print(json.dumps(fraction), flush=True)

    for how in hows:
        execution = Execution(distribute=how, timeout_seconds=timeout_seconds)
        model, records = run(CASES["plain"], execution, folder / how, dawdle=0.1, progress=report)
        write(folder / f"resumed-{how}.{this_process().rank}.json", model, records)


if __name__ == "__main__":
    if sys.argv[1] == "--killable":
        killable(float(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    else:
        main(Path(sys.argv[1]), sys.argv[2:])
