"""Compiled runs beside plain ones, with the number of graphs and of breaks between them: `compiled_run.py`."""

import json
from dataclasses import replace
from functools import partialmethod

import torch
from small import RECIPE, make_model, make_stream

from physlm.models.experts import Experts
from physlm.training.execution import Execution
from physlm.training.loop import train
from physlm.worlds.bios.rendering import Role

# The compiler for the processor takes half a minute; what is asked here is decided before it.
torch.nn.Module.compile = partialmethod(torch.nn.Module.compile, backend="aot_eager")


def run(execution, **changes):
    model = make_model(**changes)
    stream = make_stream(split="questions_train", loss_roles=(Role.VALUE,))
    return train(model, stream, replace(RECIPE, precision="float32"), execution=execution)


def main():
    found = []
    for execution, changes in (
        (Execution(compile=True, micro_batches=2), {}),
        (Execution(compile=True, checkpoint_activations=True), {"experts": Experts(experts=2, balance_weight=1.0)}),
    ):
        plain = run(Execution(), **changes)
        torch._dynamo.utils.counters.clear()
        compiled = run(execution, **changes)
        counters = torch._dynamo.utils.counters
        found.append(
            {
                "plain": [record["loss"] for record in plain],
                "compiled": [record["loss"] for record in compiled],
                "graphs": counters["stats"]["unique_graphs"],
                "breaks": len(counters["graph_break"]),
            }
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
