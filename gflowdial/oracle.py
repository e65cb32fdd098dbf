"""What a perfect learner would hold: exact flows on a forest or a small graph, and what any policy samples."""

import torch

from gflowdial import segments
from gflowdial.dag import Dag
from gflowdial.forest import Forest
from gflowdial.numerics import check_finite, check_length, check_normalised, check_vector, lift_vector, precise_dtype
from gflowdial.segments import Segments
from gflowdial.shapes import Bool, Float, Tensor

__all__ = ["dag_flows", "dag_terminating_distribution", "exact_flows", "expected_flows", "terminating_distribution"]
__all__ += ["uniform_backward"]


def exact_flows(
    forest: Forest, log_reward: Float[Tensor, " leaves"]
) -> tuple[Float[Tensor, " nodes"], Float[Tensor, " edges"]]:
    """The flow that meets every balance condition: ``F(n) = Σ R over the leaves below n``, ``P_F(c|n) = F(c) / F(n)``.

    Args:
        forest: the trees; P_B is 1 on them.
        log_reward: log R of each leaf, finite.

    Returns:
        ``(log F per node, log P_F per edge)`` in float64; log Z of a tree is log F at its root.

    Raises:
        ValueError: if the shape does not fit, or a reward is NaN or infinite.
    """
    log_reward = lift_vector("log_reward", log_reward, forest.num_leaves, "leaf")
    check_finite("log_reward", log_reward)
    at_leaves = log_reward.new_full((forest.num_nodes,), -torch.inf).index_copy(0, forest.leaves, log_reward)
    log_flow = forest.subtree_logsumexp(at_leaves)
    return log_flow, log_flow[forest.edge_child] - log_flow[forest.edge_parent]


def terminating_distribution(forest: Forest, log_pf: Float[Tensor, " edges"]) -> Float[Tensor, " leaves"]:
    """Log-probability that the policy, started at a tree's root, ends in each leaf: ``Σ log P_F over root→leaf``.

    Args:
        forest: the trees.
        log_pf: log P_F of each edge; -inf is an action that is never taken.

    Returns:
        One value a leaf, float64; NaN below an edge whose log P_F is.

    Raises:
        ValueError: if the shape does not fit.
    """
    return forest.leaf_sum(lift_vector("log_pf", log_pf, forest.num_edges, "edge"))


def expected_flows(
    forest: Forest,
    log_reward: Float[Tensor, " leaves"],
    *,
    chance: Bool[Tensor, " nodes"],
    log_chance: Float[Tensor, " edges"],
) -> tuple[Float[Tensor, " nodes"], Float[Tensor, " edges"]]:
    """The flow of a stochastic environment, where at some nodes chance decides and not the policy.

    ``F(n) = Σ p(c|n)·F(c)`` over the children of a chance node, ``F(n) = Σ F(c)`` at any other, F = R at leaves. The
    policy that belongs to it takes an action in proportion to the flow it may expect: ``P_F(c|n) = F(c) / F(n)``.

    Args:
        forest: the trees, where each action of the policy and each outcome of chance is an edge; P_B is 1 on them.
        log_reward: log R of each leaf, finite.
        chance: at which nodes chance decides; it does not matter at leaves.
        log_chance: log p(c|n) of the edges out of chance nodes, finite: leave out what cannot happen. Not read
            elsewhere.

    Returns:
        ``(log F per node, log P_F per edge)`` in float64; an edge out of a chance node has ``log_chance``.

    Raises:
        ValueError: if a shape does not fit, a reward or a chance is not finite, or the chances at a node do not sum
            to 1.

    Source: Jiralerspong et al., arXiv 2310.02779.
    """
    log_reward = lift_vector("log_reward", log_reward, forest.num_leaves, "leaf")
    check_vector("log_chance", log_chance, forest.num_edges, "edge")
    check_length("chance", chance, forest.num_nodes, "node")
    if chance.dtype != torch.bool:
        raise ValueError(f"chance must be bool, whether chance decides at each node; got {chance.dtype}.")
    check_finite("log_reward", log_reward)
    by_chance = chance[forest.edge_parent]
    check_finite("log_chance", torch.where(by_chance, log_chance, 0.0))
    check_normalised("log_chance", log_chance[by_chance], "out of", forest.edge_parent[by_chance], forest.num_nodes)
    log_chance = log_chance.to(log_reward.dtype)
    weight = torch.where(by_chance, log_chance, 0.0)
    # What a leaf adds to F(n) is R times the chances from n to it: those from the root to it over those to n.
    so_far = forest.root_sum(weight)
    at_leaves = log_reward.new_full((forest.num_nodes,), -torch.inf)
    at_leaves = at_leaves.index_copy(0, forest.leaves, log_reward + so_far[forest.leaves])
    log_flow = forest.subtree_logsumexp(at_leaves) - so_far
    log_pf = log_flow[forest.edge_child] - log_flow[forest.edge_parent]
    return log_flow, torch.where(by_chance, log_chance, log_pf)


def uniform_backward(dag: Dag) -> Float[Tensor, " edges"]:
    """log P_B that chooses evenly among the edges into each node, float64."""
    return -dag.num_parents.to(precise_dtype(dag.device)).log()[dag.target]


def dag_flows(
    dag: Dag, log_pb: Float[Tensor, " edges"], log_reward: Float[Tensor, " terminals"]
) -> tuple[Float[Tensor, " nodes"], Float[Tensor, " edges"]]:
    """The one flow that meets every balance condition for a given P_B.

    Reward runs back from the terminals: ``F(s→s') = F(s')·P_B(s|s')``, ``F(s) = Σ F(s→s')`` over the edges out of s,
    ``P_F(s'|s) = F(s→s') / F(s)``. Differentiable in both.

    Args:
        dag: the states and the steps between them.
        log_pb: log P_B of each edge; the edges into a node sum to 1. -inf is an edge that P_B never takes.
        log_reward: log R of each terminal, finite.

    Returns:
        ``(log F per node, log P_F per edge)`` in float64; log Z is log F at the root. A node that P_B never leads to
        has log F = -inf, and so have the edges out of it log P_F.

    Raises:
        ValueError: if a shape does not fit, a reward is NaN or infinite, or P_B does not sum to 1 at a node.

    Source: Bengio et al., arXiv 2111.09266.
    """
    check_vector("log_pb", log_pb, dag.num_edges, "edge")
    log_reward = lift_vector("log_reward", log_reward, len(dag.terminals), "terminal")
    check_finite("log_reward", log_reward)
    check_normalised("log_pb", log_pb, "into", dag.target, dag.num_nodes)
    log_pb = log_pb.to(log_reward.dtype)
    log_flow = log_reward.new_full((dag.num_nodes,), -torch.inf).index_copy(0, dag.terminals, log_reward)
    for level in dag.levels_up:
        edge_flow = log_flow[dag.target[level.edges]] + log_pb[level.edges]
        outflow = segments.logsumexp(edge_flow, Segments.from_ids(level.position, len(level.nodes)))
        log_flow = log_flow.index_copy(0, level.nodes, outflow)
    at_source = log_flow[dag.source]
    log_pf = log_flow[dag.target] + log_pb - at_source
    return log_flow, torch.where(at_source == -torch.inf, -torch.inf, log_pf)


def dag_terminating_distribution(dag: Dag, log_pf: Float[Tensor, " edges"]) -> Float[Tensor, " terminals"]:
    """Log-probability that the policy, started at the root above a terminal, ends there.

    The sum of ``Π P_F`` over all paths from the root to it. Differentiable.

    Args:
        dag: the states and the steps between them.
        log_pf: log P_F of each edge; the edges out of a node sum to 1. -inf is an action that is never taken.

    Returns:
        One value a terminal, float64; those below one root sum to 1.

    Raises:
        ValueError: if the shape does not fit, a node lies below two roots, or P_F does not sum to 1 at a node that can
            be reached.
    """
    given = log_pf
    log_pf = lift_vector("log_pf", log_pf, dag.num_edges, "edge")
    log_reach = log_pf.new_full((dag.num_nodes,), -torch.inf).index_fill(0, dag.roots, 0.0)
    for level in dag.levels_down:
        step = log_reach[dag.source[level.edges]] + log_pf[level.edges]
        reached = segments.logsumexp(step, Segments.from_ids(level.position, len(level.nodes)))
        log_reach = log_reach.index_copy(0, level.nodes, reached)
    reachable = log_reach[dag.source] > -torch.inf
    check_normalised("log_pf", given[reachable], "out of", dag.source[reachable], dag.num_nodes)
    # A terminal below two roots has no single probability: this raises.
    _ = dag.root_of
    return log_reach[dag.terminals]
