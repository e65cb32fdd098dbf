"""TB, DB and SubTB give the values and gradients of torchgfn's on the same trajectories.

It runs in an environment of its own, which `make bench-peers` makes: torchgfn is no dependency.

The two differ in what they call a trajectory and in how they average:

- torchgfn ends every trajectory with an exit action into a sink. Here the exit is the last edge, with log P_B = 0, and
  the sink is the leaf, which holds log R.
- torchgfn's SubTB weights are λ^(length - 1), here λ^length: the same once normalised within a trajectory. So
  ``geometric_within`` is `subtrajectory_balance(decay=λ)`, and ``equal_within`` is ``decay=1``.
- ``ModifiedDB`` averages within each trajectory first, as `detailed_balance` does. `DBGFlowNet` and the weightings
  ``DB`` and ``equal`` average over all transitions or subtrajectories of the batch; so does the mean of our
  one-trajectory losses weighted by how many of them each trajectory has.

Run: python -m benchmarks torchgfn_agreement
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from gfn.containers import Trajectories
from gfn.estimators import DiscretePolicyEstimator, ScalarEstimator
from gfn.gflownet import DBGFlowNet, SubTBGFlowNet, TBGFlowNet
from gfn.gym import HyperGrid
from gfn.preprocessors import KHotPreprocessor
from gfn.samplers import Sampler
from gfn.utils.modules import MLP
from torch import Tensor

from benchmarks.provenance import write_results, write_table
from gflowdial import Forest, losses

GRIDS = ((2, 8), (4, 8))
"""Dimensions and height."""
SEEDS = 5
BATCH = 64
DECAYS = (0.5, 0.9)
BAR = 1e-5


class Setting:
    """torchgfn's side: an environment, random networks and a batch of trajectories of every length."""

    def __init__(self, dimensions: int, height: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.env = HyperGrid(dimensions, height)
        reader = KHotPreprocessor(height=height, ndim=dimensions)
        actions = self.env.n_actions

        def network(outputs: int) -> MLP:
            return MLP(input_dim=reader.output_dim, output_dim=outputs)

        self.pf = DiscretePolicyEstimator(network(actions), actions, reader)
        self.pb = DiscretePolicyEstimator(network(actions - 1), actions, reader, is_backward=True)
        self.log_flow = ScalarEstimator(network(1), reader)
        self.log_z = torch.nn.Parameter(torch.randn(()))
        self.trajectories: Trajectories = Sampler(self.pf).sample_trajectories(self.env, BATCH)

    @property
    def parameters(self) -> list[Tensor]:
        return [*self.pf.parameters(), *self.pb.parameters(), *self.log_flow.parameters(), self.log_z]

    def subtb(self, weighting: Any, lamda: float = 0.9) -> Tensor:
        net = SubTBGFlowNet(self.pf, self.pb, self.log_flow, weighting=weighting, lamda=lamda)
        loss: Tensor = net.loss(self.env, self.trajectories)
        return loss

    def tb(self) -> Tensor:
        loss: Tensor = TBGFlowNet(self.pf, self.pb, logZ=self.log_z).loss(self.env, self.trajectories)
        return loss

    def db(self) -> Tensor:
        net = DBGFlowNet(self.pf, self.pb, self.log_flow)
        loss: Tensor = net.loss_from_trajectories(self.env, self.trajectories)
        return loss


class Flat:
    """The same batch as flat tensors on a forest of chains."""

    def __init__(self, setting: Setting) -> None:
        trajectories = setting.trajectories
        length = trajectories.terminating_idx
        self.forest = Forest.from_lengths(length)
        trajectory, step = (torch.arange(int(length.max())) < length[:, None]).nonzero(as_tuple=True)
        log_pf, log_pb = TBGFlowNet(setting.pf, setting.pb).get_pfs_and_pbs(trajectories)
        self.log_pf, self.log_pb = log_pf[step, trajectory], log_pb[step, trajectory]
        log_flow = setting.log_flow(trajectories.states[step, trajectory]).squeeze(-1)
        # What stands at leaves is never read.
        self.log_flow = torch.zeros(self.forest.num_nodes).index_copy(0, self.forest.edge_parent, log_flow)
        self.log_z = setting.log_z
        self.log_reward = trajectories.log_rewards
        self.length = length

    def subtb(self, decay: float) -> Tensor:
        return losses.subtrajectory_balance(
            self.log_flow, self.log_pf, self.log_pb, self.log_reward, self.forest, decay=decay
        )

    def tb(self) -> Tensor:
        return losses.trajectory_balance(self.log_z, self.log_pf, self.log_pb, self.log_reward, self.forest)

    def db(self) -> Tensor:
        return losses.detailed_balance(self.log_flow, self.log_pf, self.log_pb, self.log_reward, self.forest)

    def over_batch(self, loss: Callable[..., Tensor], weight: Tensor) -> Tensor:
        """Σ weight · loss of each trajectory alone, by ``weight`` normalised over the batch."""
        alone = []
        for tree, reward in enumerate(self.log_reward):
            edges, nodes = self.forest.edge_tree == tree, self.forest.tree == tree
            chain = Forest.from_lengths([int(self.length[tree])])
            alone.append(loss(self.log_flow[nodes], self.log_pf[edges], self.log_pb[edges], reward[None], chain))
        return (torch.stack(alone) * weight).sum() / weight.sum()


def pairs(setting: Setting) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What is compared: a name, torchgfn's value and ours."""
    flat = Flat(setting)
    transitions = flat.length.to(flat.log_pf.dtype)
    subtrajectories = transitions * (transitions + 1) / 2
    yield "TBGFlowNet", setting.tb(), flat.tb()
    yield "DBGFlowNet", setting.db(), flat.over_batch(losses.detailed_balance, transitions)
    yield "SubTBGFlowNet DB", setting.subtb("DB"), flat.over_batch(losses.detailed_balance, transitions)
    yield "SubTBGFlowNet ModifiedDB", setting.subtb("ModifiedDB"), flat.db()
    yield "SubTBGFlowNet equal_within", setting.subtb("equal_within"), flat.subtb(1.0)
    for decay in DECAYS:
        yield f"SubTBGFlowNet geometric_within {decay}", setting.subtb("geometric_within", decay), flat.subtb(decay)

    def uniform(*args: Any) -> Tensor:
        return losses.subtrajectory_balance(*args, decay=1.0)

    yield "SubTBGFlowNet equal", setting.subtb("equal"), flat.over_batch(uniform, subtrajectories)


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))


def compare(dtype: torch.dtype) -> dict[str, dict[str, float]]:
    """The largest differences over all settings, for each loss."""
    torch.set_default_dtype(dtype)
    worst: dict[str, dict[str, float]] = {}
    for dimensions, height in GRIDS:
        for seed in range(SEEDS):
            setting = Setting(dimensions, height, seed)
            for name, theirs, ours in pairs(setting):
                gradients = [gradient(loss, setting.parameters) for loss in (ours, theirs)]
                found = {
                    "value, absolute": float((ours - theirs).detach().abs()),
                    "value, relative": relative(ours.detach(), theirs.detach()),
                    "gradient, relative": relative(*gradients),
                }
                before = worst.setdefault(name, dict.fromkeys(found, 0.0))
                worst[name] = {key: max(before[key], value) for key, value in found.items()}
    return worst


def gradient(loss: Tensor, parameters: list[Tensor]) -> Tensor:
    grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([grad.flatten() for grad in grads])


def markdown(table: dict[str, dict[str, dict[str, float]]]) -> str:
    """The largest differences of each loss, in float64 and float32."""
    columns = [(dtype, key) for dtype, rows in table.items() for key in ("value, absolute", "gradient, relative")]
    lines = ["| torchgfn's loss | " + " | ".join(f"{dtype}: {key}" for dtype, key in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name in table["float64"]:
        lines.append(f"| {name} | " + " | ".join(f"{table[dtype][name][key]:.1e}" for dtype, key in columns) + " |")
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1)
    table = {str(dtype).removeprefix("torch."): compare(dtype) for dtype in (torch.float64, torch.float32)}
    agrees = all(row["value, absolute"] <= BAR for rows in table.values() for row in rows.values())
    setup = {"grids": GRIDS, "seeds": SEEDS, "batch": BATCH, "bar": BAR, "agrees": agrees}
    path = write_results("torchgfn_agreement", setup | {"largest difference": table}, ["torchgfn", "numpy"])
    write_table("torchgfn_agreement", markdown(table))
    print(f"{markdown(table)}\n\nwritten to {path}")
    if not agrees:
        raise SystemExit(f"values differ by more than {BAR}")


if __name__ == "__main__":
    main()
