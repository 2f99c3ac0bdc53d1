"""What attempts are made, and how many; checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["retry", "retry_weak", "retry_miss"]
Mask = Literal["none", "head", "name"]


@dataclass(frozen=True, kw_only=True)
class RetryConfig:
    """Wrong attempts in the documents of a world.

    Before every step of a document, one more attempt is made with chance `rate`, again and again: at least k of them
    with chance `rate**k`, as long as there are candidates. None is repeated before the same step.

    Example:
        >>> RetryConfig(seed=0, rate=0.2, kind="retry_weak").max_chain is None
        True

    Attributes:
        seed: any integer; decides the attempts, not the documents.
        rate: chance of one more attempt, in [0, 1). With 0 documents are clean, in the vocabulary that has <back>.
        kind: what is attempted. "retry": what is wrong, which takes knowledge of the truth. "retry_weak": what the
            document itself does later. "retry_miss": anything not done so far. The last two may in fact be right.
        include_next: whether the right next step is a candidate of "retry_weak" and "retry_miss" too.
        max_chain: most attempts before one step, ≥ 1; `None` for as many as there are candidates.
        exposures: how often every document of the world is there, each time with other attempts: document i is
            document `i % size` of the world. For worlds whose documents are few and read many times, where the same
            wrong attempts again and again would be learned as knowledge.

    Source: Physics of Language Models 2.2, §4, §6 and footnote 15.
    """

    seed: int
    rate: float
    kind: Kind = "retry"
    include_next: bool = False
    max_chain: int | None = None
    exposures: int = 1

    def __post_init__(self) -> None:
        for name in ("seed", "exposures", "max_chain"):
            value = getattr(self, name)
            if isinstance(value, bool) or not (isinstance(value, int) or (value is None and name == "max_chain")):
                raise TypeError(f"{name} must be an int, got {value!r}")
        if isinstance(self.rate, bool) or not isinstance(self.rate, int | float):
            raise TypeError(f"rate must be a float, got {self.rate!r}")
        if not 0.0 <= self.rate < 1.0:
            raise ValueError(f"rate must be in [0, 1), got {self.rate}: with chance 1 a chain of attempts never ends")
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(map(repr, get_args(Kind)))}, got {self.kind!r}")
        if not isinstance(self.include_next, bool):
            raise TypeError(f"include_next must be True or False, got {self.include_next!r}")
        if self.include_next and self.kind == "retry":
            raise ValueError("include_next must be False with kind 'retry', got True: the next step is never wrong")
        if self.max_chain is not None and self.max_chain < 1:
            raise ValueError(f"max_chain must be ≥ 1 or None, got {self.max_chain}; for no attempts use rate=0")
        if self.exposures < 1:
            raise ValueError(f"exposures must be ≥ 1, got {self.exposures}")
