"""Hypothesis strategies for forests, small DAGs, rewards, flows, padded batches and an environment's trajectories."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from hypothesis import strategies as st

from gflowdial import oracle, segments
from gflowdial.dag import Dag
from gflowdial.envs.environment import Environment
from gflowdial.forest import Forest
from gflowdial.sampling.trajectories import Trajectories
from gflowdial.segments import Segments
from gflowdial.shapes import Tensor
from gflowdial.testing.broken import BrokenLawError
from gflowdial.testing.flows import DagFlow, Flow, PaddedBatch

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn
else:
    # Hypothesis declares it as a protocol that runtime type checkers cannot test against.
    DrawFn = Callable


@st.composite
def chains(draw: DrawFn, max_trees: int = 5, max_actions: int = 20) -> Forest:
    """Trajectories of 0 to ``max_actions`` actions."""
    lengths = draw(st.lists(st.integers(0, max_actions), min_size=1, max_size=max_trees))
    parent: list[int] = []
    for length in lengths:
        parent += [-1, *range(len(parent), len(parent) + length)]
    return Forest.from_parents(torch.tensor(parent))


@st.composite
def trees(draw: DrawFn, max_nodes: int = 40) -> Forest:
    """One tree of any shape."""
    size = draw(st.integers(1, max_nodes))
    return Forest.from_parents(torch.tensor([draw(st.integers(min(0, n - 1), n - 1)) for n in range(size)]))


@st.composite
def forests(draw: DrawFn, max_nodes: int = 40) -> Forest:
    """Trees whose nodes may interleave, or chains."""
    if draw(st.booleans()):
        return draw(chains(max_trees=5, max_actions=max(0, max_nodes // 5 - 1)))
    size = draw(st.integers(1, max_nodes))
    return Forest.from_parents(torch.tensor([draw(st.integers(-1, n - 1)) for n in range(size)]))


@st.composite
def dags(draw: DrawFn, max_nodes: int = 12, max_parents: int = 3) -> Dag:
    """Small acyclic graphs; every node is reached from exactly one root, and two edges may join the same nodes.

    Edges come grouped by the node that they enter, in ascending order.
    """
    source: list[int] = []
    target: list[int] = []
    root: list[int] = []
    for node in range(draw(st.integers(1, max_nodes))):
        # -1 makes a root; the other parents are nodes that the same root leads to.
        first = draw(st.integers(-1, node - 1))
        root.append(node if first < 0 else root[first])
        if first < 0:
            continue
        kin = [n for n in range(node) if root[n] == root[first]]
        others = draw(st.lists(st.sampled_from(kin), max_size=max_parents - 1))
        source += [first, *others]
        target += [node] * (1 + len(others))
    edges = [torch.tensor(ends, dtype=torch.int64) for ends in (source, target)]
    return Dag.from_edges(edges[0], edges[1], len(root))


@st.composite
def vectors(draw: DrawFn, size: int, low: float = -5.0, high: float = 5.0) -> Tensor:
    """Any float64 numbers in [low, high], ``[size]``."""
    numbers = draw(st.lists(st.floats(low, high), min_size=size, max_size=size))
    return torch.tensor(numbers, dtype=torch.float64)


@st.composite
def log_rewards(draw: DrawFn, forest: Forest, low: float = -5.0, high: float = 5.0) -> Tensor:
    """log R of each leaf. For rewards over many magnitudes widen the bounds: -300 to 300 nats are 260 decades."""
    return draw(vectors(forest.num_leaves, low, high))


@st.composite
def balanced_flows(
    draw: DrawFn, forests: st.SearchStrategy[Forest], any_backward: bool = True, spread: float = 5.0
) -> Flow:
    """A flow that meets every balance condition, with any P_B when ``any_backward`` (else P_B = 1).

    A forest's edge weights P_B need not be 1: a trajectory of a DAG is a chain whose states have other parents too.
    Any log F with log R at its leaves is balanced by ``log P_F = log F(child) - log F(parent) + log P_B``.

    Args:
        forests: what the flow lies on, such as `forests()`, `chains()` or `st.just(forest)`.
        any_backward: whether P_B is free; else the flow is the exact one, whose P_F is normalised too.
        spread: log R, log F and -log P_B are at most this far from 0, in nats.
    """
    forest = draw(forests)
    log_reward = draw(log_rewards(forest, -spread, spread))
    if any_backward:
        log_flow = draw(vectors(forest.num_nodes, -spread, spread)).index_copy(0, forest.leaves, log_reward)
        log_pb = draw(vectors(forest.num_edges, -spread, 0.0))
        log_pf = log_flow[forest.edge_child] - log_flow[forest.edge_parent] + log_pb
    else:
        log_flow, log_pf = oracle.exact_flows(forest, log_reward)
        log_pb = torch.zeros_like(log_pf)
    return Flow(forest, log_flow[forest.roots], log_flow, log_pf, log_pb, log_reward)


@st.composite
def perturbed_flows(draw: DrawFn, forests: st.SearchStrategy[Forest]) -> Flow:
    """A balanced flow with one action's log P_F moved by 0.5 or more; the forest has an edge."""
    flow = draw(balanced_flows(forests.filter(lambda forest: forest.num_edges > 0)))
    edge = draw(st.integers(0, flow.forest.num_edges - 1))
    shift = draw(st.floats(0.5, 5.0)) * draw(st.sampled_from([-1.0, 1.0]))
    log_pf = flow.log_pf.clone()
    log_pf[edge] += shift
    return Flow(flow.forest, flow.log_z, flow.log_flow, log_pf, flow.log_pb, flow.log_reward)


@st.composite
def balanced_dag_flows(draw: DrawFn, dags: st.SearchStrategy[Dag], spread: float = 5.0) -> DagFlow:
    """The exact flow on a DAG for rewards and a normalised P_B that are both free.

    Args:
        dags: what the flow lies on, such as `dags()`.
        spread: log R and the logits of P_B are at most this far from 0, in nats.
    """
    dag = draw(dags)
    logits = draw(vectors(len(dag.source), -spread, spread))
    siblings = Segments.from_ids(dag.target, dag.num_nodes)
    log_pb = logits - segments.logsumexp(logits, siblings)[dag.target]
    log_reward = draw(vectors(len(dag.terminals), -spread, spread))
    log_flow, log_pf = oracle.dag_flows(dag, log_pb, log_reward)
    return DagFlow(dag, log_flow, log_pf, log_pb, log_reward)


@st.composite
def padded_batches(draw: DrawFn, flows: st.SearchStrategy[Flow]) -> PaddedBatch:
    """A flow on chains as padded tensors and a mask, for code that takes those.

    Args:
        flows: flows on chains, such as ``balanced_flows(chains())``.
    """
    return PaddedBatch.of(draw(flows), padding=draw(st.sampled_from([0.0, 7.0, -40.0])))


@st.composite
def trajectories(
    draw: DrawFn, environment: Environment, max_trajectories: int = 5, max_actions: int = 1000
) -> Trajectories:
    """Complete trajectories of an environment: any walk that its masks allow, from any initial state.

    Raises:
        AssertionError: if a walk has not ended after ``max_actions`` actions; `check_environment` says more.
    """
    initial = environment.initial_states
    condition = draw(st.lists(st.integers(0, len(initial) - 1), min_size=1, max_size=max_trajectories))
    states, actions, lengths, ends = [], [], [], []
    for start in condition:
        state, taken = initial[start : start + 1], 0
        states.append(state)
        while valid := torch.nonzero(environment.forward_mask(state)[0]).squeeze(1).tolist():
            if taken == max_actions:
                raise BrokenLawError(f"a walk by the masks has not ended after {max_actions} actions")
            actions.append(draw(st.sampled_from(valid)))
            state, taken = environment.step(state, torch.tensor(actions[-1:], device=state.device)), taken + 1
            states.append(state)
        lengths.append(taken)
        ends.append(state)
    device = initial.device
    return Trajectories(
        Forest.from_lengths(torch.tensor(lengths, device=device)),
        torch.cat(states),
        torch.tensor(actions, dtype=torch.int64, device=device),
        environment.log_reward(torch.cat(ends)),
        torch.tensor(condition, device=device),
    )
