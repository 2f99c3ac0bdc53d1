"""A run whose disk fills up, and which goes on when there is room: `full_disk_run.py FOLDER limit|ballast`.

With "limit" the kernel refuses to let any file grow beyond 2 kB; with "ballast" a file takes all the room there is, so
FOLDER must be on a small disk.
"""

import json
import resource
import signal
import sys
from pathlib import Path

from small import RECIPE, make_model, make_stream, outcome

from physlm.training.loop import train

folder, mode = Path(sys.argv[1]), sys.argv[2]
ballast = folder.with_name("ballast")
full = False
log_points = 0


def fill_up() -> None:
    if mode == "limit":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, resource.RLIM_INFINITY))
        return
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(256)):
                pass
        except OSError:
            return


def make_room() -> None:
    if mode == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        ballast.unlink()


def evaluate():
    global full, log_points
    log_points += 1
    if log_points == 3 and not full:
        full = True
        fill_up()
    return {}


def go():
    model = make_model()
    return outcome(model, train(model, make_stream(), RECIPE, evaluate=evaluate, log_every=4, folder=folder))


try:
    go()
except OSError as error:
    report = {"errno": error.errno, "message": str(error), "left": sorted(path.name for path in folder.iterdir())}
make_room()
print(json.dumps({**report, "outcome": go()}))
