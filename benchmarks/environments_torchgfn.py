"""The worker of `benchmarks.environments` for torchgfn, set up as its own comparison of libraries sets it up."""

from typing import Any

import torch
from gfn.estimators import DiscretePolicyEstimator
from gfn.gflownet import TBGFlowNet
from gfn.gym import HyperGrid, NonAutoregressiveBitSequence
from gfn.preprocessors import KHotPreprocessor
from gfn.samplers import Sampler
from gfn.utils.modules import MLP

from benchmarks.environments_worker import Case, Session, serve

REWARD = {"R0": 0.1, "R1": 0.5, "R2": 2.0}


def environment(case: Case) -> tuple[Any, int, dict[str, Any]]:
    """The environment, the length of what networks read, and what an estimator needs to read it."""
    if case.kind == "hypergrid":
        grid = HyperGrid(
            case.dimensions,
            case.side,
            reward_fn_str="original",
            reward_fn_kwargs=REWARD,
            device="cpu",
            calculate_partition=False,
            store_all_states=False,
            debug=False,
        )
        reader = KHotPreprocessor(height=case.side, ndim=case.dimensions)
        return grid, reader.output_dim, {"preprocessor": reader}
    bits = NonAutoregressiveBitSequence(
        word_size=case.word,
        seq_size=case.length,
        n_modes=case.modes,
        reward_exponent=2.0,
        device_str="cpu",
        debug=False,
    )
    return bits, bits.words_per_seq, {}


def session(case: Case) -> Session:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    env, read, reader = environment(case)
    actions = env.n_actions
    forward = MLP(read, actions, hidden_dim=case.hidden, n_hidden_layers=case.layers)
    backward = MLP(read, actions - 1, hidden_dim=case.hidden, n_hidden_layers=case.layers, trunk=forward.trunk)
    pf = DiscretePolicyEstimator(forward, actions, **reader)
    pb = DiscretePolicyEstimator(backward, actions, is_backward=True, **reader)
    net = TBGFlowNet(pf=pf, pb=pb, init_logZ=0.0)
    optimiser = torch.optim.Adam(
        [
            {"params": net.pf_pb_parameters(), "lr": case.lr},
            {"params": net.logz_parameters(), "lr": case.lr_log_z},
        ]
    )
    sampler = Sampler(estimator=pf)

    def advance(iterations: int) -> float:
        edges = 0
        for _ in range(iterations):
            trajectories = sampler.sample_trajectories(
                env, n=case.batch, save_logprobs=False, save_estimator_outputs=False
            )
            optimiser.zero_grad()
            net.loss_from_trajectories(env, trajectories, recalculate_all_logprobs=True).backward()
            optimiser.step()
            edges += int(trajectories.terminating_idx.sum())
        return edges / iterations / case.batch

    return Session(advance, sum(p.numel() for p in net.parameters()))


if __name__ == "__main__":
    serve(session, ["torchgfn", "torch"])
