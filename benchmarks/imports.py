"""Starting: `import physlm` and the whole of a model in a fresh process, beside `import transformers` and its GPT-2.

Rates are starts per second, so that more is better, as everywhere here.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from benchmarks.harness import MissingPeerError, Result, Settings, race

OURS, PEER = "import physlm", "import transformers"
MODELS = {
    "physlm, to a model class": "from physlm import Transformer",
    "transformers, to a model class": "from transformers import GPT2LMHeadModel",
    "torch alone": "import torch",
    "an empty Python": "pass",
}


def start(code: str) -> None:
    """Run `code` in a new interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingPeerError(f"{code!r} does not run: {done.stderr.strip().splitlines()[-1]}")


def run(settings: Settings) -> Result:
    """Measure."""
    codes = {OURS: OURS, PEER: PEER, **MODELS}
    result = race({name: partial(start, code) for name, code in codes.items()}, settings.repetitions)
    return Result(
        benchmark="import",
        unit="starts per 1,000 seconds",
        value=result.rate(OURS, 1000),
        peer=PEER,
        peer_value=result.rate(PEER, 1000),
        ratio=result.ratio(OURS, PEER),
        parameters={},
        details={
            "ratio_spread": result.spread(OURS, PEER),
            "seconds": {name: 1 / result.rate(name, 1) for name in codes},
            "ratio_to_a_model_class": result.ratio("physlm, to a model class", "transformers, to a model class"),
        },
        rows=[(name, result.rate(name, 1000), result.ratio(name, PEER)) for name in MODELS],
    )
