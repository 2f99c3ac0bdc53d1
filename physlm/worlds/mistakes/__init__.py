"""Learning from mistakes: wrong attempts, each taken back with <back>, in the documents of any world (part 2.2).

Example:
    >>> clean = IGSMWorld(IGSMConfig(seed=0))
    >>> world = retry_world(clean, RetryConfig(seed=0, rate=0.2))
    >>> sample = world["train", 0]
    >>> bool(world.check(sample.truth, sample.tokens)), int(world.chains(sample.tokens).sum())
    (True, 2)
    >>> np.array_equal(world.strip(sample.tokens), clean["train", 0].tokens)
    True
"""

from physlm.worlds.mistakes.config import Kind, Mask, RetryConfig
from physlm.worlds.mistakes.detectors import JudgeDetector, ReadinessDetector
from physlm.worlds.mistakes.error_models import AttemptRole, Attempts, ErrorModel, Places
from physlm.worlds.mistakes.world import FreshRetryWorld, RetryWorld, retry_world

__all__ = [
    "AttemptRole",
    "Attempts",
    "ErrorModel",
    "FreshRetryWorld",
    "JudgeDetector",
    "Kind",
    "Mask",
    "Places",
    "ReadinessDetector",
    "RetryConfig",
    "RetryWorld",
    "retry_world",
]
