"""Balance of the root with every state below it."""

import torch

from gflowdial.forest import Forest
from gflowdial.losses.inputs import loss_dtype
from gflowdial.losses.penalties import Penalty, squared
from gflowdial.losses.reduction import Over, Reduction
from gflowdial.losses.steps import StepResiduals
from gflowdial.shapes import Float, Tensor


def rooted_prefix_balance(
    log_flow: Float[Tensor, " nodes"],
    log_pf: Float[Tensor, " edges"],
    log_pb: Float[Tensor, " edges"] | None,
    log_reward: Float[Tensor, " leaves"],
    forest: Forest,
    *,
    decay: float = 1.0,
    shortest: int = 1,
    penalty: Penalty = squared,
    reduction: Reduction = "mean",
    tree_weight: Float[Tensor, " trees"] | None = None,
) -> Float[Tensor, "*trees"]:
    """Mismatch of flow between the root and every prefix: the pairs of `subtrajectory_balance` that begin at a root.

    ``(log F(n) - Σ over root→n of (log P_F - log P_B) - log F(root))²`` for every node n of depth ``shortest`` or more,
    with log F := log R at leaves; averaged within each tree with weight ``decay^depth(n)``, then over trees; a tree
    without such nodes counts 0. Linear in nodes with every penalty.

    Args:
        log_flow: log F of each state, ``[nodes]``; entries at leaves are replaced by ``log_reward``. Where every state
            may stop it is log R - log P(stop), see `losses.modified`.
        log_pf: forward log-probability of each action, ``[edges]``.
        log_pb: backward log-probability of each action, ``[edges]``; None means a tree, log P_B = 0.
        log_reward: log R of each leaf, ``[leaves]``.
        forest: which state follows which.
        decay: the weight per step of a prefix, in (0, 1].
        shortest: the least depth of a prefix that counts, 1 or more.
        penalty: what a residual costs; see `losses.penalties`.
        reduction: "mean", "none" or "pooled" over prefixes; see `losses.reduction`.
        tree_weight: a factor of each tree's costs, ``[trees]``; None is 1.

    Returns:
        The loss, or with reduction "none" one value per tree: computed in float64 and returned in the dtype of
        ``log_flow``, at least float32.

    Raises:
        ValueError: if a shape or device does not fit the forest, or an option is out of range.

    Source: Wang et al., arXiv 2603.00454, the auxiliary term of RapTB.
    """
    if not (0 < decay <= 1 and shortest >= 1):
        raise ValueError(f"decay is {decay} and shortest {shortest}: give a number in (0, 1] and one of 1 or more.")
    residual = forest.root_sum(StepResiduals(forest).of(log_flow, log_pf, log_pb, log_reward))
    weight = torch.where(forest.depth >= shortest, decay ** (forest.depth - shortest).to(residual.dtype), 0.0)
    return Over(forest, reduction, tree_weight).mean(penalty(residual), forest.tree, weight).to(loss_dtype(log_flow))
