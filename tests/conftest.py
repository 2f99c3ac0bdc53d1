"""What every test has: one thread per process, repeatable examples, and tensor shapes checked at every call."""

import os

# Tests run beside each other; sums in one thread are also the same everywhere. Must be set before torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings
from jaxtyping import install_import_hook

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# `Float[Tensor, "B T W"]` in a signature is checked from here on; in ordinary use it costs nothing.
# As everywhere in Python's type system, an int will do where a float is asked for.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
install_import_hook("physlm.models", CHECKER)
