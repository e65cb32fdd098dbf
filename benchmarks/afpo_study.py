"""How well does each reading of AFPO determine the policy? A tabular study on many random trees.

Every tree has known rewards, so its exact flow is known. A softmax policy and a free value V are trained from several
random starts on each objective, and the policy that comes out is compared with the exact one and with its sisters.

Run: python -m benchmarks afpo_study
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.provenance import write_results
from gflowdial import Forest, losses, oracle
from gflowdial.losses.released import Release
from gflowdial.metrics.distances import total_variation
from gflowdial.segments import Segments

SETTINGS = (
    (40, 4, "sparse"),
    (80, 4, "sparse"),
    (160, 4, "sparse"),
    (80, 8, "sparse"),
    (81, 4, "full"),
    (81, 8, "full"),
)
"""Nodes per tree (at least), strategies per state, and shape: "full" trees try every strategy where they try one."""
TREES, SEEDS, STEPS, LEARNING_RATE = 30, 3, 1500, 0.1
BETA, GAMMA = 0.1, 1.0
TARGETS = {"R = r⁴": 4.0, "R = r": 1.0}


@dataclass(frozen=True)
class Problem:
    """Many trees in one forest: ``repeats`` copies of each, one per random start, copies innermost.

    Attributes:
        forest: all of them.
        row, action: where each edge stands in the policy table ``[states, actions]``.
        reward: r of each leaf.
        log_reward: log R.
        log_q: log Q̂ of each node, the mean of R over the leaves below.
        repeats: copies of each tree.
    """

    forest: Forest
    row: Tensor
    action: Tensor
    reward: Tensor
    log_reward: Tensor
    log_q: Tensor
    repeats: int


Tree = tuple[NDArray[np.int64], NDArray[np.int64]]
"""The parent of each node, and the strategy that led to it."""


def random_tree(rng: np.random.Generator, nodes: int, strategies: int, shape: str) -> Tree:
    """A tree grown at random: one untried strategy at a time ("sparse"), or all those of a leaf ("full")."""
    parent, action = [-1], [-1]
    # Each entry is what one draw adds: strategies tried together at one node.
    together = [list(range(strategies))] if shape == "full" else [[a] for a in range(strategies)]
    open_draws = [(0, draw) for draw in together]
    while len(parent) < nodes:
        node, draw = open_draws.pop(int(rng.integers(len(open_draws))))
        for strategy in draw:
            open_draws += [(len(parent), further) for further in together]
            parent.append(node)
            action.append(strategy)
    return np.array(parent), np.array(action)


def build(trees: list[Tree], rewards: list[NDArray[np.float64]], power: float, repeats: int) -> Problem:
    """One forest of all trees, each ``repeats`` times over; the target is ``R = r^power``."""
    parents, actions, reward = [], [], []
    size = 0
    for (parent, action), leaf_reward in zip(trees, rewards, strict=True):
        for _ in range(repeats):
            parents.append(np.where(parent < 0, -1, parent + size))
            actions.append(action)
            reward.append(leaf_reward)
            size += len(parent)
    forest = Forest.from_parents(torch.as_tensor(np.concatenate(parents)))
    reward_of_leaf = torch.as_tensor(np.concatenate(reward))
    log_reward = power * reward_of_leaf.log()
    states = (forest.num_children > 0).cumsum(0) - 1
    log_flow, _ = oracle.exact_flows(forest, log_reward)
    return Problem(
        forest=forest,
        row=states[forest.edge_parent],
        action=torch.as_tensor(np.concatenate(actions))[forest.edge_child],
        reward=reward_of_leaf,
        log_reward=log_reward,
        log_q=log_flow - forest.leaves_below.log(),
        repeats=repeats,
    )


def log_policy(problem: Problem, logits: Tensor) -> Tensor:
    """The policy table ``[states, actions]``; strategies that no edge of the tree stands for are masked."""
    tried = torch.zeros_like(logits, dtype=torch.bool)
    tried[problem.row, problem.action] = True
    return torch.log_softmax(logits.masked_fill(~tried, -torch.inf), dim=1)


Objective = Callable[[Problem, Tensor, Tensor], Tensor]


def flow_term(problem: Problem, table: Tensor, log_v: Tensor, release: Release | None = None, **options: Any) -> Tensor:
    """AFPO's flow term alone, as the paper can be read or as one of the releases computes it."""
    log_pf = table[problem.row, problem.action]
    if release is not None:
        value = log_v[problem.forest.edge_child].exp()
        return losses.released_flow_balance(problem.log_q.exp(), value, log_pf, problem.forest, release=release)
    return losses.afpo(problem.log_q + log_v, log_pf, None, problem.log_reward, problem.forest, **options)


def with_extras(problem: Problem, table: Tensor, log_v: Tensor, **options: Any) -> Tensor:
    """The flow term, β times the KL to a uniform reference, and γ times the ranking hinge, as published."""
    child = problem.forest.edge_child
    kl = losses.reference_kl(table, log_policy(problem, torch.zeros_like(table)), weight=BETA)
    hinge = losses.ranking_hinge(log_v[child], problem.log_q[child], problem.forest, weight=GAMMA)
    return flow_term(problem, table, log_v, **options) + kl + hinge


OBJECTIVES: dict[str, Objective] = {
    "first release": partial(with_extras, release="first"),
    "second release": partial(with_extras, release="second"),
    "paper, state flow": partial(with_extras, variant="paper", flow="state"),
    "paper, edge flow": partial(with_extras, variant="paper", flow="edge"),
    "first release, flow term alone": partial(flow_term, release="first"),
    "second release, flow term alone": partial(flow_term, release="second"),
    "paper, state flow, flow term alone": partial(flow_term, variant="paper", flow="state"),
    "paper, edge flow, flow term alone": partial(flow_term, variant="paper", flow="edge"),
    "anchored, with KL and hinge": partial(with_extras, variant="anchored"),
    "anchored": partial(flow_term, variant="anchored"),
}


def train(problem: Problem, objective: Objective, actions: int, seed: int, steps: int = STEPS) -> Tensor:
    """Log P_F per edge after ``steps`` of Adam from a normal random start, the rate falling to 0 along a cosine.

    The trees share no parameter, and Adam's steps do not depend on a loss's scale, so it trains each as if alone.
    """
    generator = torch.Generator().manual_seed(seed)
    states = int(problem.row.max()) + 1
    logits = torch.randn(states, actions, generator=generator, dtype=torch.float64).requires_grad_()
    log_v = torch.randn(problem.forest.num_nodes, generator=generator, dtype=torch.float64).requires_grad_()
    # eps far below any gradient: one tree's share of the mean must not matter.
    optimiser = torch.optim.Adam([logits, log_v], lr=LEARNING_RATE, eps=1e-15)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        objective(problem, log_policy(problem, logits), log_v).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return log_policy(problem, logits)[problem.row, problem.action]


def measure(problem: Problem, log_pf: Tensor) -> dict[str, Tensor]:
    """Per tree, ``[trees]``: distance to the exact policy, between seeds, and the expected reward."""
    forest, repeats = problem.forest, problem.repeats
    ends = oracle.terminating_distribution(forest, log_pf)
    exact = oracle.terminating_distribution(forest, oracle.exact_flows(forest, problem.log_reward)[1])
    distance = total_variation(ends, exact, Segments.from_ids(forest.leaf_tree, forest.num_trees))
    expected = torch.zeros(forest.num_trees, dtype=torch.float64).index_add(
        0, forest.leaf_tree, ends.exp() * problem.reward
    )
    result = {"distance": distance.view(-1, repeats).mean(1), "expected reward": expected.view(-1, repeats).mean(1)}
    if repeats > 1:
        apart = [between_copies(problem, ends, i, j) for i, j in combinations(range(repeats), 2)]
        result["between seeds"] = torch.stack(apart).mean(0)
    return result


def between_copies(problem: Problem, ends: Tensor, i: int, j: int) -> Tensor:
    """Total variation between copies i and j of every tree; copies have their leaves in the same order."""
    copy = problem.forest.leaf_tree % problem.repeats
    tree = problem.forest.leaf_tree // problem.repeats
    gap = (ends[copy == i].exp() - ends[copy == j].exp()).abs() / 2
    return gap.new_zeros(problem.forest.num_trees // problem.repeats).index_add(0, tree[copy == i], gap)


def interval(values: Tensor) -> tuple[float, float]:
    """The mean over trees and the half-width of its 95% interval (normal)."""
    return float(values.mean()), float(1.96 * values.std() / math.sqrt(len(values)))


def study() -> dict[str, Any]:
    """``{target: {objective: {setting: {measure: [mean, half-width]}}}}`` over all of them."""
    rng = np.random.default_rng(0)
    trees = [random_tree(rng, *setting) for setting in SETTINGS for _ in range(TREES)]
    rewards = [rng.uniform(0.2, 1.0, int((~np.isin(np.arange(len(p)), p)).sum())) for p, _ in trees]
    actions = max(strategies for _, strategies, _ in SETTINGS)
    table: dict[str, Any] = {}
    for target, power in TARGETS.items():
        problem = build(trees, rewards, power, SEEDS)
        uniform = -problem.forest.num_children[problem.forest.edge_parent].log()
        exact = oracle.exact_flows(problem.forest, problem.log_reward)[1]
        policies = {"uniform policy": uniform.double()}
        for name, objective in OBJECTIVES.items():
            print(f"training {name}, {target}", flush=True)
            policies[name] = train(problem, objective, actions, seed=0)
        policies["exact flow"] = exact
        table[target] = {name: by_setting(measure(problem, log_pf)) for name, log_pf in policies.items()}
    return table


def by_setting(measures: dict[str, Tensor]) -> dict[str, dict[str, tuple[float, float]]]:
    """The intervals over all trees and over those of each setting."""
    groups = {"all": slice(None)} | {
        f"{shape}, {nodes} nodes, {strategies} strategies": slice(k * TREES, (k + 1) * TREES)
        for k, (nodes, strategies, shape) in enumerate(SETTINGS)
    }
    return {group: {key: interval(x[rows]) for key, x in measures.items()} for group, rows in groups.items()}


def markdown(table: dict[str, Any], group: str) -> str:
    """The study's table for one group of trees."""
    shown = ("distance", "between seeds", "expected reward")
    lines = [
        "| objective | " + " | ".join(f"{target}: TV · between seeds · E[r]" for target in table) + " |",
        "|---" * (len(table) + 1) + "|",
    ]
    for name in next(iter(table.values())):
        cells = []
        for target in table:
            values = table[target][name][group]
            cells.append(" · ".join("{:.3f} ± {:.3f}".format(*values[key]) for key in shown))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1)
    table = study()
    setup = {"trees per setting": TREES, "seeds": SEEDS, "steps": STEPS, "learning rate": LEARNING_RATE}
    path = write_results("afpo_study", {"setup": setup | {"beta": BETA, "gamma": GAMMA}, "table": table})
    for group in next(iter(next(iter(table.values())).values())):
        print(f"\n{group}\n\n{markdown(table, group)}")
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
