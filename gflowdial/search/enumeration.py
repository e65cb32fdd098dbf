"""Every history of a small environment as search trees: what exact flows and policies are computed on."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from gflowdial.forest import Forest
from gflowdial.search.answers import ask_outcomes, ask_prior, check_finite
from gflowdial.search.environment import AnyEnvironment, ChanceEnvironment, State
from gflowdial.search.tree import SearchTree
from gflowdial.search.watching import watched


def enumerate_tree(
    environment: AnyEnvironment[State], roots: Sequence[State], max_nodes: int = 100_000
) -> SearchTree[State]:
    """The trees of all histories from the roots, level by level, with one call per environment method and level.

    Forbidden actions are left out. In a `ChanceEnvironment` every action leads to a chance node with all its outcomes,
    so ``log_chance`` is exact, and `gflowdial.oracle.expected_flows` can be computed on the tree. ``visits`` is the
    number of leaves below a node, ``value`` the mean of their returns, in which every leaf counts once. The nodes of a
    tree are in breadth-first order, siblings in the order of their actions or outcomes.

    Args:
        environment: the world, in which every history ends.
        roots: the states to start from; none has ended.
        max_nodes: the greatest number of nodes, over all trees.

    Raises:
        ValueError: no roots, more nodes than ``max_nodes``, or an answer that `search` refuses too.
    """
    if not roots:
        raise ValueError("there are no roots: give at least one state to start from")
    with watched(environment, roots) as world:
        return _enumerated(world, roots, max_nodes)


def _enumerated(environment: AnyEnvironment[State], roots: Sequence[State], max_nodes: int) -> SearchTree[State]:
    stochastic = isinstance(environment, ChanceEnvironment)
    states, level = list(roots), list(range(len(roots)))
    # Per node: parent, action, reward, ended, chance, log_chance, and the rewards of the turns from the root on.
    nodes: list[tuple[int, int, float, bool, bool, float, tuple[float, ...]]] = []
    nodes += [(-1, -1, 0.0, False, False, 0.0, ())] * len(roots)
    priors = []
    while level:
        prior = ask_prior(environment, [states[node] for node in level])
        priors.append((level, prior))
        row, action = np.nonzero(prior > -np.inf)
        _check_size(len(nodes) + (1 + stochastic) * len(row), max_nodes)
        above, actions = [level[i] for i in row.tolist()], action.tolist()
        outcomes = ask_outcomes(environment, [states[node] for node in above], action)
        if stochastic:
            first = len(nodes)
            states += [states[node] for node in above]
            nodes += [(n, a, 0.0, False, True, 0.0, nodes[n][-1]) for n, a in zip(above, actions, strict=True)]
            above, actions = list(range(first, len(nodes))), [-1] * len(above)
            _check_size(len(nodes) + sum(map(len, outcomes)), max_nodes)
        level = []
        for node, taken, answers in zip(above, actions, outcomes, strict=True):
            for answer in answers:
                level += [] if answer.ended else [len(nodes)]
                log_chance = math.log(answer.probability) if stochastic else 0.0
                rewards = (*nodes[node][-1], answer.reward)
                states.append(answer.state)
                nodes.append((node, taken, answer.reward, answer.ended, False, log_chance, rewards))
    parents, taken_actions, rewards_in, ends, by_chance, log_chances, earned = zip(*nodes, strict=True)
    forest = Forest.from_parents(torch.tensor(parents))
    returns = np.zeros(len(nodes))
    for leaf in forest.leaves.tolist():
        returns[leaf] = environment.trajectory_return(earned[leaf], states[leaf])
    check_finite("return", returns)
    log_prior = np.full((len(nodes), environment.num_actions), np.nan)
    for level, prior in priors:
        log_prior[level] = prior
    levels = SearchTree(
        forest=forest,
        states=tuple(states),
        action=torch.tensor(taken_actions),
        reward=torch.tensor(rewards_in, dtype=torch.float64),
        visits=forest.leaves_below,
        value=forest.subtree_sum(torch.from_numpy(returns)) / forest.leaves_below,
        log_prior=torch.from_numpy(log_prior),
        ended=torch.tensor(ends),
        expanded=torch.ones(len(nodes), dtype=torch.bool),
        chance=torch.tensor(by_chance),
        log_chance=torch.tensor(log_chances, dtype=torch.float64),
    )
    # Levels of several trees interleave: each tree by itself keeps its order.
    return SearchTree.merge(levels.split())


def _check_size(nodes: int, max_nodes: int) -> None:
    if nodes > max_nodes:
        raise ValueError(
            f"the trees have {nodes:,} nodes or more, above max_nodes = {max_nodes:,}: start from fewer roots, end "
            "episodes earlier, or raise max_nodes"
        )
