"""What a policy makes of scenes: exactly, where every history can be enumerated, or from episodes that were played."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from examples.aflow_esc.play import Episode
from examples.aflow_esc.policies import DialoguePolicy
from examples.aflow_esc.roles.simulated import Tree
from gflowdial import oracle
from gflowdial.forest import Forest
from gflowdial.metrics.distances import total_variation


class Outcome(NamedTuple):
    """Means over scenes.

    Attributes:
        expected_return: E[G].
        success: probability that the seeker ends the talk helped.
        left: probability that the seeker leaves unhelped.
        turns: the supporter's turns.
        entropy: entropy of the strategy at the states the policy comes to, in nats.
        total_variation: distance of the policy's distribution over whole conversations to the exact flow's,
            R = exp(G/τ); None where it is not known.
    """

    expected_return: float
    success: float
    left: float
    turns: float
    entropy: float
    total_variation: float | None


def enumerated_outcome(trees: Sequence[Tree], policy: DialoguePolicy | None, temperature: float) -> Outcome:
    """The exact outcome of a policy on fully enumerated scenes; without one, of the exact flow policy."""
    return mean_outcome([_on_tree(tree, policy, temperature) for tree in trees])


def sampled_outcome(scenes: Sequence[Sequence[Episode]]) -> Outcome:
    """The mean outcome of the episodes that were played in each scene."""
    return mean_outcome([_of_episodes(episodes) for episodes in scenes])


def _on_tree(tree: Tree, policy: DialoguePolicy | None, temperature: float) -> Outcome:
    forest = Forest.from_parents(torch.tensor(tree.parent))
    ended = np.array(tree.ended)
    returns = torch.tensor(tree.returns, dtype=torch.float64)[forest.leaves]
    log_flow, exact_log_pf = oracle.exact_flows(forest, returns / temperature)
    log_pf = exact_log_pf if policy is None else torch.from_numpy(_edge_log_probs(tree, ended, policy))
    log_reach = forest.root_sum(log_pf)
    log_ends = log_reach[forest.leaves]
    reach, ends = log_reach.exp(), log_ends.exp()
    surprise = torch.where(log_pf > -torch.inf, log_pf, 0.0)
    status = np.array(tree.status)[forest.leaves.numpy()]
    inner = torch.from_numpy(~ended)
    return Outcome(
        expected_return=float(ends @ returns),
        success=float(ends @ torch.from_numpy(status == "helped").double()),
        left=float(ends @ torch.from_numpy(status == "left").double()),
        turns=float(ends @ forest.depth[forest.leaves].double()),
        entropy=float(-(reach[forest.edge_child] * surprise).sum() / reach[inner].sum()),
        total_variation=float(total_variation(log_ends, returns / temperature - log_flow[0])),
    )


def _edge_log_probs(tree: Tree, ended: NDArray[np.bool_], policy: DialoguePolicy) -> NDArray[np.float64]:
    """log P_F of every edge of the tree, ``[edges]``."""
    inner = np.flatnonzero(~ended)
    row = np.full(len(ended), -1)
    row[inner] = np.arange(len(inner))
    log_policy = policy.log_policy([tree.dialogue[node] for node in inner])
    edges: NDArray[np.float64] = log_policy[row[np.array(tree.parent[1:])], np.array(tree.action[1:])]
    return edges


def _of_episodes(episodes: Sequence[Episode]) -> Outcome:
    return Outcome(
        expected_return=float(np.mean([episode.episode_return for episode in episodes])),
        success=float(np.mean([episode.state.status == "helped" for episode in episodes])),
        left=float(np.mean([episode.state.status == "left" for episode in episodes])),
        turns=float(np.mean([episode.state.turns_taken for episode in episodes])),
        entropy=float(np.mean([entropy for episode in episodes for entropy in episode.entropies])),
        total_variation=None,
    )


def mean_outcome(outcomes: Sequence[Outcome]) -> Outcome:
    """The mean of each measure; None where one is not known."""
    columns = list(zip(*outcomes, strict=True))
    return Outcome(*(None if None in column else float(np.mean(column)) for column in columns))  # type: ignore[arg-type]
