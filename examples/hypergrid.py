"""The hypergrid learned by trajectory balance, beside the exact answer: ``python examples/hypergrid.py``."""

import torch

from gflowdial import estimators, metrics, oracle, training
from gflowdial.envs import Hypergrid, enumerate_states


def main(steps: int = 2000) -> float:
    """Train a small network, and return its total variation to the target R / Z."""
    torch.manual_seed(0)
    environment = Hypergrid(dimensions=2, side=8)
    estimator = estimators.NetworkFlow(environment, estimators.MLPTrunk(environment.num_features, width=64))
    networks = [p for name, p in estimator.named_parameters() if not name.startswith("log_z")]
    optimiser = torch.optim.Adam(
        [{"params": networks, "lr": 1e-3}, {"params": estimator.log_z.parameters(), "lr": 1e-1}]
    )
    generator = torch.Generator().manual_seed(0)
    loop = training.train(
        environment, estimator, "trajectory_balance", optimiser, steps=steps, batch_size=16, generator=generator
    )
    graph = enumerate_states(environment)
    distance = 1.0
    for done in loop:
        if (done.step + 1) % 500 == 0 or done.step + 1 == steps:
            log_pf = estimator(graph.states).log_pf[graph.dag.source, graph.action].detach()
            learned = oracle.dag_terminating_distribution(graph.dag, log_pf)
            distance = float(metrics.total_variation(learned, graph.log_reward.log_softmax(0)))
            print(f"step {done.step + 1}: loss {done.loss:.4f}, total variation {distance:.3f}")
    return distance


if __name__ == "__main__":
    main()
