"""Learning from mistakes: wrong attempts, each taken back with <back>, in the documents of any world (part 2.2).

Example:
    >>> clean = IGSMWorld(IGSMConfig(seed=0))
    >>> world = retry_world(clean, RetryConfig(seed=0, rate=0.2))
    >>> sample = world["train", 0]
    >>> bool(world.check(sample.truth, sample.tokens)), world.strip(sample.tokens) == clean["train", 0].tokens
    (True, array([ True,  True, …]))
"""

from physlm.worlds.mistakes.config import Kind, Mask, RetryConfig
from physlm.worlds.mistakes.error_models import AttemptRole, Attempts, ErrorModel, Places
from physlm.worlds.mistakes.removal import chains
from physlm.worlds.mistakes.world import FreshRetryWorld, RetryWorld, retry_world

__all__ = [
    "AttemptRole",
    "Attempts",
    "ErrorModel",
    "FreshRetryWorld",
    "Kind",
    "Mask",
    "Places",
    "RetryConfig",
    "RetryWorld",
    "chains",
    "retry_world",
]
