"""Grade-school math problems as dependency graphs, with a judge of every step (parts 2.1 and 2.2).

Example:
    >>> world = IGSMWorld(IGSMConfig(seed=0, max_operations=21, max_instances=28))
    >>> sample = world["test", 0]
    >>> len(sample.truth.letters) <= 21, bool(world.check(sample.truth, sample.tokens))
    (True, True)
"""

from physlm.worlds.igsm.config import IGSMConfig
from physlm.worlds.igsm.drawing import NoSuchProblemError
from physlm.worlds.igsm.judge import Judge, Verdict
from physlm.worlds.igsm.labels import Labels
from physlm.worlds.igsm.problem import Abstract, Formula, Instance, Item, Parameter, Problem
from physlm.worlds.igsm.rendering import MARKS, ROLES, Renderer
from physlm.worlds.igsm.vocabulary import Vocabulary
from physlm.worlds.igsm.world import IGSMWorld

__all__ = [
    "MARKS",
    "ROLES",
    "Abstract",
    "Formula",
    "IGSMConfig",
    "IGSMWorld",
    "Instance",
    "Item",
    "Judge",
    "Labels",
    "NoSuchProblemError",
    "Parameter",
    "Problem",
    "Renderer",
    "Verdict",
    "Vocabulary",
]
