"""Test what you built: Hypothesis strategies for forests and flows, and checkers of the laws that a part must keep.

Needs the extra `testing`. A strategy draws examples for tests of your own::

    @given(flow=balanced_flows(forests()))
    def test_my_loss_vanishes_at_balance(flow):
        assert my_loss(flow.log_flow, flow.log_pf, flow.log_pb, flow.log_reward, flow.forest) < 1e-9

A checker is one call on an environment, a loss, an estimator, a sampler, trajectories, a search environment, a dialogue
task, a language model or a certificate. It raises an AssertionError that names the law, the smallest case it found
against it, and the numbers.
"""

from typing import TYPE_CHECKING

try:
    import hypothesis as _hypothesis  # noqa: F401
except ImportError as error:
    raise ImportError("gflowdial.testing needs the extra `testing`: pip install 'gflowdial[testing]'.") from error

from gflowdial.faces import lazy_face
from gflowdial.testing.certificate_laws import check_certificate
from gflowdial.testing.environment_laws import check_environment
from gflowdial.testing.estimator_laws import check_estimator
from gflowdial.testing.flows import DagFlow, Flow, PaddedBatch
from gflowdial.testing.loss_adapters import from_log_z, from_padded
from gflowdial.testing.loss_laws import check_loss
from gflowdial.testing.sampling_laws import PolicyMatch, check_policy_matches
from gflowdial.testing.search_laws import check_search_environment
from gflowdial.testing.strategies import (
    balanced_dag_flows,
    balanced_flows,
    chains,
    dags,
    forests,
    log_rewards,
    padded_batches,
    perturbed_flows,
    trajectories,
    trees,
    vectors,
)
from gflowdial.testing.task_laws import check_task
from gflowdial.testing.trajectory_laws import check_trajectories

if TYPE_CHECKING:
    from gflowdial.testing.language_model_laws import check_language_model

__all__ = [
    "DagFlow",
    "Flow",
    "PaddedBatch",
    "PolicyMatch",
    "balanced_dag_flows",
    "balanced_flows",
    "chains",
    "check_certificate",
    "check_environment",
    "check_estimator",
    "check_language_model",
    "check_loss",
    "check_policy_matches",
    "check_search_environment",
    "check_task",
    "check_trajectories",
    "dags",
    "forests",
    "from_log_z",
    "from_padded",
    "log_rewards",
    "padded_batches",
    "perturbed_flows",
    "trajectories",
    "trees",
    "vectors",
]

# The checker of language models needs transformers.
__getattr__, _ = lazy_face(__name__, {"language_model_laws": ["check_language_model"]})


def __dir__() -> list[str]:
    return sorted(__all__)
