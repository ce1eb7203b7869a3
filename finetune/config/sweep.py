"""What a sweep varies, who chooses its points, and what it may spend, in Optuna's words."""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from finetune.config.types import Closed, Count, Number, Positive

GRID: Final = "grid"


@dataclass(kw_only=True)
class SweepConfig:
    """Many runs of one recipe, each with other values."""

    __pydantic_config__: ClassVar[Any] = Closed

    space: dict[str, Any] = field(default_factory=dict)
    """Key to its values: a list, or Hydra's `choice(8,16)`, `range(1,9,2)`, `tag(log,interval(1e-5,1e-3))`."""
    sampler: Literal["tpe", "random", "cmaes", "nsga2", "gp", "grid"] = "tpe"
    """Who chooses the next point; grid takes every point, in order."""
    pruner: Literal["none", "median", "hyperband", "asha"] = "none"
    """Who ends a trial early, by its evaluations while it trains."""
    objectives: dict[str, Literal["maximize", "minimize"]] = field(default_factory=dict)
    """Score to its direction; without any, the task's own score. `training_seconds` and `trainable_parameters` too."""
    n_trials: Positive | None = None
    """Different points that are trained or pruned. None is 20, or every point of a grid."""
    timeout: Annotated[Number, Field(gt=0)] | None = None
    """Seconds after which no further trial is started."""
    seeds_per_trial: Positive = 1
    """Runs of a point on the same rows, by other `seeds`; its value is their mean. The first decides on pruning."""
    n_jobs: Positive | Literal["auto"] = "auto"
    """Trials at a time; auto is as many as there are devices for, one on a processor, and 8 as jobs of a cluster."""
    devices_per_trial: Count | Literal["auto"] = "auto"
    """Accelerators a trial has to itself; auto is one for each of its processes. With 0, trials share them."""
    max_failures: Count = 3
    """Failed trials that are put up with; one more ends the sweep."""
