"""SubTB on forests of trees, beside the ways that other code goes: every path a trajectory, or all pairs listed."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.measure import device
from gflowdial import Forest, losses
from gflowdial.losses.pair_metric import PairWeight
from gflowdial.search import SearchConfig, search

TREES = 64
Loss = Callable[[Tensor, Tensor], Tensor]


def search_trees(simulations: int) -> Forest:
    """`TREES` trees of eight actions a node that a search built, ten turns deep at most."""
    from benchmarks.search_instant import Instant

    return search(Instant(), [0] * TREES, range(TREES), SearchConfig(simulations=simulations)).forest.to(device())


def ragged_chains(length: int) -> Forest:
    """`TREES` chains of half to one and a half times ``length`` actions."""
    generator = torch.Generator().manual_seed(0)
    return Forest.from_lengths(torch.randint(length // 2, length * 3 // 2 + 1, (TREES,), generator=generator)).to(
        device()
    )


def deep_trees(length: int) -> Forest:
    """`TREES` trees of ``length + 1`` nodes each; parents lie at most eight nodes back, so they grow deep."""
    generator = torch.Generator().manual_seed(0)
    node = torch.arange(length + 1)
    parents = []
    for tree in range(TREES):
        back = 1 + (torch.rand(length + 1, generator=generator) * node.clamp(max=8)).long()
        parent = node - back.minimum(node) + tree * (length + 1)
        parent[0] = -1
        parents.append(parent)
    return Forest.from_parents(torch.cat(parents)).to(device())


def ours(forest: Forest, log_reward: Tensor, decay: float, pair_weight: PairWeight) -> Loss:
    return lambda log_flow, log_pf: losses.subtrajectory_balance(
        log_flow, log_pf, None, log_reward, forest, decay=decay, pair_weight=pair_weight
    )


class Paths:
    """Every root-to-leaf path as a trajectory of its own, padded: how code without trees takes them.

    Attributes:
        lengths: actions of each path, ``[paths]``.
        state: the node before each action, ``[paths, steps]``; 0 where there is none.
        edge: the action's edge, likewise.
        taken: whether there is an action.
    """

    def __init__(self, forest: Forest) -> None:
        leaves, self.tree = forest.leaves, forest.leaf_tree
        self.lengths = forest.depth[leaves]
        step = torch.arange(int(self.lengths.max()), device=forest.device)
        up = self.lengths[:, None] - step
        self.taken = up > 0

        def above(steps: Tensor) -> Tensor:
            nodes = forest.ancestor(leaves[:, None].expand_as(up).flatten(), steps.clamp(min=0).flatten())
            return nodes.view_as(up)

        self.state = above(up).where(self.taken, 0)
        edge_of = torch.zeros_like(forest.parent)
        edge_of[forest.edge_child] = torch.arange(forest.num_edges, device=forest.device)
        self.edge = edge_of[above(up - 1)].where(self.taken, 0)


def dense_paths(paths: Paths, log_reward: Tensor, decay: float) -> Loss:
    """All pairs of all paths in one table ``[paths, steps + 1, steps + 1]``; the value of ``pair_weight="path"``."""
    step = torch.arange(paths.taken.shape[1] + 1, device=device())
    distance = step[None, :] - step[:, None]
    weight = torch.where(distance > 0, decay ** distance.clamp(min=0).float(), 0.0)
    weight = weight * (step <= paths.lengths[:, None])[:, None, :]
    total = weight.new_zeros(TREES).index_add(0, paths.tree, weight.sum((1, 2)))
    weight = weight / total[paths.tree, None, None] / TREES
    last = torch.nn.functional.one_hot(paths.lengths, len(step)).bool()

    def loss(log_flow: Tensor, log_pf: Tensor) -> Tensor:
        along = torch.nn.functional.pad(log_pf[paths.edge].where(paths.taken, 0.0).cumsum(1), (1, 0))
        flow = torch.nn.functional.pad(log_flow[paths.state], (0, 1))
        c = torch.where(last, log_reward[:, None], flow) - along
        return ((c[:, :, None] - c[:, None, :]).square() * weight).sum()

    return loss


def torchgfn_paths(paths: Paths, log_reward: Tensor, decay: float) -> Loss:
    """torchgfn on the paths, each of which counts the same."""
    from benchmarks import loss_torchgfn

    no_pb = torch.zeros(paths.taken.T.shape, device=device())

    def loss(log_flow: Tensor, log_pf: Tensor) -> Tensor:
        flow = log_flow[paths.state].where(paths.taken, -torch.inf).T
        along = log_pf[paths.edge].where(paths.taken, 0.0).T
        return loss_torchgfn.subtrajectory_balance(flow, along, no_pb, log_reward, paths.lengths, decay)()

    return loss


def as_chains(paths: Paths, log_reward: Tensor, decay: float) -> Loss:
    """What `torchgfn_paths` is to give: the paths as chains."""
    forest = Forest.from_lengths(paths.lengths)

    def loss(log_flow: Tensor, log_pf: Tensor) -> Tensor:
        states = log_flow[paths.state[paths.taken]]
        flow = log_flow.new_zeros(forest.num_nodes).index_copy(0, forest.edge_parent, states)
        pf = log_pf[paths.edge[paths.taken]]
        return losses.subtrajectory_balance(flow, pf, None, log_reward, forest, decay=decay)

    return loss


def listed_pairs(forest: Forest, log_reward: Tensor, decay: float) -> Loss:
    """All pairs of a node and an ancestor as two lists of nodes; the value of ``pair_weight="unique"``."""
    below = torch.arange(forest.num_nodes, device=forest.device).repeat_interleave(forest.depth)
    steps = 1 + torch.arange(len(below), device=forest.device) - (forest.pair_bounds - forest.depth)[below]
    above = forest.ancestor(below, steps)
    weight = decay ** steps.float()
    tree = forest.tree[below]
    total = weight.new_zeros(TREES).index_add(0, tree, weight)
    weight = weight / total[tree] / TREES

    def loss(log_flow: Tensor, log_pf: Tensor) -> Tensor:
        c = log_flow.index_copy(0, forest.leaves, log_reward) - forest.root_sum(log_pf)
        return ((c[above] - c[below]).square() * weight).sum()

    return loss


def contestants(kind: str, forest: Forest, log_reward: Tensor, decay: float, quadratic: bool) -> dict[str, Loss]:
    """The forms for a kind of forest; ours alone if not ``quadratic``: the others grow with pairs."""
    pair_weight: PairWeight = "unique" if kind == "deep" else "path"
    found = {"gflowdial": ours(forest, log_reward, decay, pair_weight)}
    if quadratic and kind == "deep":
        found["pairs"] = listed_pairs(forest, log_reward, decay)
    elif quadratic:
        paths = Paths(forest)
        found["torchgfn"] = torchgfn_paths(paths, log_reward, decay)
        found["dense"] = dense_paths(paths, log_reward, decay)
    return found


FORESTS = {"search": search_trees, "ragged": ragged_chains, "deep": deep_trees}
