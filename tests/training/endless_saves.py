"""Saves one model, then another, under one name, until it is killed: `endless_saves.py FOLDER`."""

import sys
from itertools import cycle
from pathlib import Path

from small import make_model

from physlm.training.checkpoints import save_model

for model in cycle([make_model(0), make_model(1)]):
    save_model(model, Path(sys.argv[1]) / "model", data_fingerprint="")
    print("saved", flush=True)
