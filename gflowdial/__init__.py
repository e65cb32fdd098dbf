"""gflowdial: dialogue policies as GFlowNets, on one index structure for trajectories and search trees."""

from typing import TYPE_CHECKING

from gflowdial.faces import lazy_face
from gflowdial.forest import Forest

if TYPE_CHECKING:
    from gflowdial import (
        dialogue,
        envs,
        estimators,
        losses,
        metrics,
        numerics,
        oracle,
        replay,
        sampling,
        search,
        segments,
        testing,
        training,
    )
    from gflowdial.dag import Dag

__all__ = ["Dag", "Forest"]
__all__ += ["dialogue", "envs", "estimators", "losses", "metrics", "numerics", "oracle", "replay", "sampling", "search"]
__all__ += ["segments", "testing", "training"]

# Submodules load when first used: `import gflowdial` costs little more than `import torch`.
__getattr__, __dir__ = lazy_face(__name__, {"dag": ["Dag"], "forest": ["Forest"], **dict.fromkeys(__all__[2:], ())})
