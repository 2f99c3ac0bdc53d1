"""A run in a process of its own: `killable_run.py FOLDER DROPOUT`. It says every log point, and dawdles there."""

import json
import sys
import time
from pathlib import Path

from small import RECIPE, make_model, make_stream, outcome

from physlm.training.loop import train

LOG_EVERY = 3
CHECKPOINT_EVERY = 5


def run(folder, dropout, dawdle=0.0):
    model = make_model(dropout=dropout)

    def evaluate():
        time.sleep(dawdle)
        return {"norm": model.embed.weight.detach().norm()}

    def report(fraction, message):
        del message
        print(json.dumps(fraction), flush=True)

    records = train(
        model,
        make_stream(),
        RECIPE,
        evaluate=evaluate,
        log_every=LOG_EVERY,
        checkpoint_every=CHECKPOINT_EVERY,
        folder=folder,
        progress=report,
    )
    return outcome(model, records)


if __name__ == "__main__":
    run(Path(sys.argv[1]), float(sys.argv[2]), dawdle=0.1)
