"""What a part of a known tree teaches: the settings of untried actions at 1, 5 and 20 % coverage.

Whole trees with their exact flow: haggling over 4 scenes, and 4 random trees of 4 actions. Parts of them, until they
hold a share of the leaves (of the nodes, for searches):

- rollouts: even random trajectories, merged into one tree; every leaf is an end;
- search: a tree that grows by one new node per descent, without rollouts; nearly every leaf is a frontier;
- recorded: the same trajectories, each a chain by itself, so that every state has one tried action.

A table of logits and of log F, shared by all chains that come through a state, is trained on the part from the uniform
policy; the total variation is that of whole conversations to the exact flow. What a part leaves undetermined shows in
the distance between this policy and one that was trained from random logits.

Run: python -m benchmarks untried
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.provenance import write_results, write_table
from benchmarks.tables import table
from examples.haggling import MOVES, TASK, scenes, simulated
from gflowdial import Forest, losses, oracle, segments
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState
from gflowdial.metrics import total_variation
from gflowdial.search import enumerate_tree
from gflowdial.segments import Segments

Collection = Literal["rollouts", "search", "recorded"]
Setting = Literal["free", "masked", "floor", "truncated"]
COLLECTIONS: tuple[Collection, ...] = ("rollouts", "search", "recorded")
SETTINGS: tuple[Setting, ...] = ("free", "masked", "floor", "truncated")
COVERAGE = (0.01, 0.05, 0.2)
TREES, TEMPERATURE, FLOOR = 4, 0.1, 0.1
STEPS, LEARNING_RATE = 1_000, 0.1


@dataclass(frozen=True)
class Part:
    """What was observed of a whole forest.

    Attributes:
        forest: the observed trees or chains; untried actions as leaves of their own under "floor".
        node: ``[nodes]`` the node of the whole that each observed node is.
        ended: ``[leaves]`` where log R holds.
        log_reward: ``[leaves]`` log R there; at a frontier that of one random completion.
    """

    forest: Forest
    node: Tensor
    ended: Tensor
    log_reward: Tensor


def whole(generator: torch.Generator) -> tuple[Forest, Tensor]:
    """All trees in one forest, and log R of each leaf."""
    environment = DialogueEnvironment.of(TASK, simulated(MOVES), MOVES, max_turns=4)
    haggled = enumerate_tree(environment, [DialogueState.begin(sale) for sale in scenes()[:: 18 // TREES][:TREES]])
    grown = [random_tree(generator) for _ in range(TREES)]
    drawn = torch.rand(sum(tree.num_leaves for tree in grown), generator=generator, dtype=torch.float64)
    return Forest.concatenate([haggled.forest, *grown]), torch.cat([haggled.leaf_return, drawn]) / TEMPERATURE


def random_tree(generator: torch.Generator, actions: int = 4, depth: int = 5) -> Forest:
    """Every action everywhere; a node ends with probability 0.15, and at ``depth``."""
    parent, level = [-1], [0]
    for _ in range(depth):
        below = [node for node in level if node == 0 or float(torch.rand((), generator=generator)) >= 0.15]
        level = list(range(len(parent), len(parent) + actions * len(below)))
        parent += [node for node in below for _ in range(actions)]
    return Forest.from_parents(torch.tensor(parent))


def children_of(forest: Forest) -> list[list[int]]:
    children: list[list[int]] = [[] for _ in range(forest.num_nodes)]
    for child, parent in zip(forest.edge_child.tolist(), forest.edge_parent.tolist(), strict=True):
        children[parent].append(child)
    return children


def observe(
    forest: Forest, log_reward: Tensor, collection: Collection, setting: Setting, share: float, seed: int
) -> Part:
    """A part that holds ``share`` of the leaves of each tree; the same seed gives the same part under every setting."""
    children, generator = children_of(forest), torch.Generator().manual_seed(seed)
    reward: dict[int, float] = dict(zip(forest.leaves.tolist(), log_reward.tolist(), strict=True))

    def drawn(below: list[int]) -> int:
        return below[int(torch.randint(len(below), (), generator=generator))]

    def completed(node: int) -> float:
        while children[node]:
            node = drawn(children[node])
        return reward[node]

    parent: list[int] = []
    node_of: list[int] = []
    value: list[float] = []
    for tree, root in enumerate(forest.roots.tolist()):
        total = int((forest.tree == tree).sum() if collection == "search" else (forest.leaf_tree == tree).sum())
        place: dict[int, int] = {}
        while sum(1 for n in place if collection == "search" or not children[n]) < max(1, round(share * total)):
            if collection == "recorded" or not place:
                # What follows from one chain to the next is the count of its leaves alone.
                first = len(parent)
                parent.append(-1)
                node_of.append(root)
                value.append(completed(root))
                known = {root: first}
            node, fresh = root, False
            while children[node] and not (fresh and collection == "search"):
                below = drawn(children[node])
                if fresh := below not in known:
                    known[below] = len(parent)
                    parent.append(known[node])
                    node_of.append(below)
                    value.append(completed(below))
                node = below
            place |= known
    part, node = Forest.from_parents(torch.tensor(parent)), torch.tensor(node_of)
    at_leaf = torch.tensor(value, dtype=torch.float64)[part.leaves]
    ended = forest.num_children[node[part.leaves]] == 0
    if setting == "truncated":
        ended = torch.ones_like(ended)
    if setting != "floor":
        return Part(part, node, ended, at_leaf)
    mean = _mean_below(part, at_leaf)
    tried: dict[int, set[int]] = {}
    for child, above in zip(node[part.edge_child].tolist(), part.edge_parent.tolist(), strict=True):
        tried.setdefault(above, set()).add(child)
    added = [(above, c) for above, seen in tried.items() for c in children[node_of[above]] if c not in seen]
    above, new = torch.tensor(added, dtype=torch.int64).view(-1, 2).T
    share_of_prior = FLOOR / torch.tensor([len(children[node_of[a]]) for a, _ in added], dtype=torch.float64)
    floored = Forest.from_parents(torch.cat([part.parent, above]))
    values = torch.zeros(floored.num_nodes, dtype=torch.float64).index_copy(0, part.leaves, at_leaf)
    values[part.num_nodes :] = mean[above] + share_of_prior.log()
    ends = torch.ones(floored.num_nodes, dtype=torch.bool).index_copy(0, part.leaves, ended)
    return Part(floored, torch.cat([node, new]), ends[floored.leaves], values[floored.leaves])


def _mean_below(part: Forest, at_leaf: Tensor) -> Tensor:
    """The mean of log R = G/τ over the leaves below each node."""
    values = torch.zeros(part.num_nodes, dtype=torch.float64).index_copy(0, part.leaves, at_leaf)
    return part.subtree_sum(values) / part.leaves_below


def loss(
    part: Part, log_flow: Tensor, logits: Tensor, whole_forest: Forest, setting: Setting, objective: str
) -> Tensor:
    """``objective`` on a part, from log F of all nodes and the logits of the edges into them, ``[nodes]`` each."""
    forest = part.forest
    above = whole_forest.parent.clamp(min=0)
    if setting in ("masked", "truncated"):
        chosen = logits[part.node[forest.edge_child]]
        tried = Segments.from_ids(forest.edge_parent, forest.num_nodes)
        log_pf = chosen - segments.logsumexp(chosen, tried)[forest.edge_parent]
    else:
        actions = Segments.from_ids(above, whole_forest.num_nodes)
        at_roots = logits.index_fill(0, whole_forest.roots, -torch.inf)
        log_pf = (logits - segments.logsumexp(at_roots, actions)[above])[part.node[forest.edge_child]]
    flow = log_flow[part.node]
    log_reward = torch.where(part.ended, part.log_reward, flow[forest.leaves])
    if objective == "trajectory_balance":
        return losses.trajectory_balance(flow[forest.roots], log_pf, None, log_reward, forest)
    function = losses.subtrajectory_balance if objective == "subtrajectory_balance" else losses.detailed_balance
    return function(flow, log_pf, None, log_reward, forest)


def train(
    part: Part, forest: Forest, setting: Setting, objective: str, start: Tensor | None = None
) -> tuple[float, Tensor]:
    """The final loss, and log P_F of every edge of the whole; from one log F everywhere and the uniform policy, or from
    the logits ``start``."""
    log_flow = torch.full((forest.num_nodes,), float(part.log_reward.mean()), dtype=torch.float64).requires_grad_()
    logits = (torch.zeros_like(log_flow) if start is None else start.clone()).detach().requires_grad_()
    optimiser = torch.optim.Adam([log_flow, logits], lr=LEARNING_RATE, eps=1e-15)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        optimiser.zero_grad()
        value = loss(part, log_flow, logits, forest, setting, objective)
        # A part of single tried actions may leave no parameter in the loss.
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return float(value), normalised(forest, logits)


def normalised(forest: Forest, logits: Tensor) -> Tensor:
    """log P_F of every edge of the whole."""
    chosen, actions = logits[forest.edge_child], Segments.from_ids(forest.edge_parent, forest.num_nodes)
    return chosen - segments.logsumexp(chosen, actions)[forest.edge_parent]


def determined(part: Part, whole_forest: Forest) -> float:
    """The share of the observed acting states whose flow "free" determines: all actions tried, of flows determined."""
    forest = part.forest
    known = torch.zeros(forest.num_nodes, dtype=torch.bool).index_copy(0, forest.leaves, part.ended)
    acts = forest.num_children > 0
    below: list[list[int]] = children_of(forest)
    for node in reversed(range(forest.num_nodes)):
        if below[node]:
            complete = len(below[node]) == int(whole_forest.num_children[part.node[node]])
            known[node] = complete and all(bool(known[child]) for child in below[node])
    return float(known[acts].double().mean())


def study(seed: int = 0) -> list[dict[str, Any]]:
    """One row per collection, coverage, setting and objective."""
    forest, log_reward = whole(torch.Generator().manual_seed(seed))
    trees = Segments.from_ids(forest.leaf_tree, forest.num_trees)
    exact_flow, exact_pf = oracle.exact_flows(forest, log_reward)
    exact = forest.leaf_sum(exact_pf)
    logits = torch.zeros(forest.num_nodes, dtype=torch.float64).index_copy(0, forest.edge_child, exact_pf)

    def distance(log_pf: Tensor, other: Tensor = exact) -> list[float]:
        each = total_variation(forest.leaf_sum(log_pf), other, trees)
        return [float(each[:TREES].mean()), float(each[TREES:].mean())]

    start = torch.randn(forest.num_nodes, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    uniform = distance(normalised(forest, torch.zeros_like(logits)))
    rows = [{"collection": "", "coverage": 0.0, "setting": "uniform policy", "objective": "", "distance": uniform}]
    for collection in COLLECTIONS:
        for share in COVERAGE:
            for setting in SETTINGS:
                part = observe(forest, log_reward, collection, setting, share, seed)
                for objective in ("subtrajectory_balance", "detailed_balance", "trajectory_balance"):
                    if objective != "subtrajectory_balance" and share != COVERAGE[1]:
                        continue
                    reached, log_pf = train(part, forest, setting, objective)
                    # Objectives beside the first are trained from one start alone.
                    twice = objective == "subtrajectory_balance"
                    other = forest.leaf_sum(train(part, forest, setting, objective, start)[1]) if twice else None
                    rows.append({
                        "collection": collection,
                        "coverage": share,
                        "setting": setting,
                        "objective": objective,
                        "nodes": part.forest.num_nodes,
                        "loss at the exact flow": float(loss(part, exact_flow, logits, forest, setting, objective)),
                        "loss reached": reached,
                        "determined": determined(part, forest) if setting == "free" else None,
                        "between starts": None if other is None else distance(log_pf, other),
                        "distance": distance(log_pf),
                    })  # fmt: skip
                    print(rows[-1], flush=True)
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """One line per part and setting."""
    head = [
        "part",
        "coverage",
        "untried",
        "loss",
        "at the exact flow",
        "reached",
        "determined",
        "TV haggling",
        "random",
    ]
    lines = []
    for row in rows:
        numbers = [f"{value:.3f}" for value in row["distance"]]
        if not row["collection"]:
            lines.append(["", "", row["setting"], "", "", "", "", *numbers])
            continue
        apart = " · ".join(f"{value:.3f}" for value in row["between starts"] or ())
        short = {"subtrajectory_balance": "SubTB", "detailed_balance": "DB", "trajectory_balance": "TB"}
        values = [f"{row[name]:.2g}" for name in ("loss at the exact flow", "loss reached")]
        what = [row["collection"], f"{row['coverage']:.0%}", row["setting"], short[row["objective"]]]
        lines.append([*what, *values, apart, *numbers])
    return table(head, lines)


def main() -> None:
    torch.set_num_threads(1)
    rows = study()
    path = write_results("untried", {"steps": STEPS, "learning rate": LEARNING_RATE, "rows": rows})
    write_table("untried", markdown(rows))
    print(f"{markdown(rows)}\n\nwritten to {path}")


if __name__ == "__main__":
    main()
