"""The lab: experiments, claims and verdicts.

An `Experiment` is data plus one pure function; `run_experiment` computes what its claims need, once, in parallel,
and survives being killed; a `Verdict` compares a confidence interval with a threshold fixed before the run.
"""

from physlm.lab.claims import Claim, Measurement, Predicate, Requirement, Verdict
from physlm.lab.experiment import Condition, Experiment, Scale
from physlm.lab.report import Report
from physlm.lab.results import Results, RunMetrics, pack_items, unpack_items
from physlm.lab.runner import run_experiment
from physlm.lab.tables import verdict_table
from physlm.lab.workspace import Workspace

__all__ = [
    "Claim",
    "Condition",
    "Experiment",
    "Measurement",
    "Predicate",
    "Report",
    "Requirement",
    "Results",
    "RunMetrics",
    "Scale",
    "Verdict",
    "Workspace",
    "pack_items",
    "run_experiment",
    "unpack_items",
    "verdict_table",
]
