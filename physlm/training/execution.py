"""How a run is computed, not what it computes.

- Nothing here is part of a run's identity: a run may be continued with another `Execution`, on another number of
  processes, and goes the same way up to rounding.
- Exceptions, because they are about a batch as a whole: what dropout drops, and the balance of experts, are drawn and
  measured in each part of the batch on its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Distribution = Literal["none", "ddp", "fsdp"]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Memory, compilation and processes.

    Attributes:
        micro_batches: equal parts, by rows, in which the gradient of a batch is added up; saves memory.
        compile: compile the loss with `torch.compile`; on a CPU this needs a C++ compiler. All places of a batch then
            go through the head, whether something is asked there or not, since shapes must not change.
        checkpoint_activations: keep only the input of every block for the backward pass and compute the rest again;
            saves memory, costs about a third more time.
        distribute: "ddp" gives each process of `torchrun` the whole model and a part of the rows; "fsdp" gives it a
            part of the weights and of the optimiser's state too.
        timeout_seconds: how long a process waits for the others before it gives up; evaluating and writing a checkpoint
            must not take as long.
    """

    micro_batches: int = 1
    compile: bool = False
    checkpoint_activations: bool = False
    distribute: Distribution = "none"
    timeout_seconds: float = 600.0

    def __post_init__(self) -> None:
        if not isinstance(self.micro_batches, int) or self.micro_batches < 1:
            raise ValueError(f"micro_batches must be an integer ≥ 1, got {self.micro_batches}; 1 is the whole batch")
        if self.distribute not in get_args(Distribution):
            raise ValueError(f"distribute must be one of {get_args(Distribution)}, got {self.distribute!r}")
        if not 0 < self.timeout_seconds < float("inf"):
            raise ValueError(f"timeout_seconds must be > 0 and finite, got {self.timeout_seconds}")


PLAIN = Execution()
"""The whole batch at once, in this process."""
