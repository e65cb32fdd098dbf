"""What is learned: P_F, P_B, log F and log Z as tables or networks.

Language models stand in `gflowdial.estimators.language_model`, which needs the extra ``lm``.
"""

from gflowdial.envs.environment import StateSpace
from gflowdial.estimators.flow_estimator import FlowEstimates, FlowEstimator
from gflowdial.estimators.log_z import NetworkLogZ, TabularLogZ
from gflowdial.estimators.network import NetworkFlow
from gflowdial.estimators.tabular import TabularFlow
from gflowdial.estimators.trunks import MLPTrunk, TransformerTrunk, Trunk
from gflowdial.numerics import masked_log_softmax

__all__ = ["FlowEstimates", "FlowEstimator", "MLPTrunk", "NetworkFlow", "NetworkLogZ", "StateSpace", "TabularFlow"]
__all__ += ["TabularLogZ", "TransformerTrunk", "Trunk", "masked_log_softmax"]
