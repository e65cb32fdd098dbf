"""The study of chance: its draws, and the exact flow of its world."""

import math

import pytest
import torch

from benchmarks import chance
from benchmarks.chance import Case, Seen, World
from gflowdial import Forest, losses, oracle


@pytest.fixture(scope="module")
def world() -> World:
    return World.enumerated()


def test_answers_are_drawn_with_their_probabilities(world: World) -> None:
    generator = torch.Generator().manual_seed(0)
    count = world.drawn(200, generator)
    answers = world.by_chance
    total = torch.zeros(world.forest.num_nodes).index_add(0, world.forest.edge_parent[answers], count[answers])
    assert (total[world.chance] == 200).all()
    assert (count[~answers] == 1).all()
    assert float((count[answers] / 200 - world.log_chance[answers].exp()).abs().max()) < 0.2
    assert abs(float((count[answers] / 200 - world.log_chance[answers].exp()).mean())) < 0.002


def test_what_was_not_drawn_is_left_out_with_all_below(world: World) -> None:
    count = world.drawn(1, torch.Generator().manual_seed(0))
    seen = Seen.of(world, count)
    assert (count[seen.edge] > 0).all()
    assert torch.equal(world.forest.edge_child[seen.edge], seen.node[seen.forest.edge_child])
    assert torch.equal(world.forest.leaves[seen.leaf], seen.node[seen.forest.leaves])
    assert (seen.forest.num_children[world.chance[seen.node]] == 1).all()


def test_the_expected_flow_has_loss_zero_where_all_answers_have_their_probability(world: World) -> None:
    log_flow, log_pf = oracle.expected_flows(
        world.forest, world.log_reward, chance=world.chance, log_chance=world.log_chance
    )
    everything = Seen.of(world, torch.ones(world.forest.num_edges))
    case = Case("expected_detailed_balance", 1)
    assert float(chance.loss(world, case, everything, log_flow, log_pf, world.log_chance)) < 1e-18
    plain = Case("detailed_balance", 1)
    assert float(chance.loss(world, plain, everything, log_flow, log_pf, world.log_chance)) > 0.1


@pytest.mark.parametrize("draws", [1, 2])
def test_of_few_draws_the_mean_of_logarithms_is_learned(draws: int) -> None:
    """Two answers of probability ½ with R = 1 and e⁴: log F is the expectation of the log of the mean of n rewards."""
    rewards = torch.tensor([0.0, 4.0]).double()
    log_flow = torch.zeros(3).double().requires_grad_()
    total = torch.zeros(()).double()
    for ones in range(draws + 1):
        times = torch.tensor([draws - ones, ones])
        kept = times.nonzero().squeeze(1)
        part = Forest.from_parents(torch.tensor([-1] + [0] * len(kept)))
        value = losses.expected_detailed_balance(
            torch.cat([log_flow[:1], log_flow[1 + kept]]),
            (times[kept].double() / draws).log(),
            rewards[kept],
            part,
            chance=torch.arange(part.num_nodes) == 0,
        )
        total = total + math.comb(draws, ones) / 2**draws * value
    # A square in log F, so its slope at 0 tells where the minimum is.
    learned = float(-torch.autograd.grad(total, log_flow)[0][0] / 2)
    log_mean = math.log((1 + math.exp(4)) / 2)
    assert learned == pytest.approx({1: 2.0, 2: 0.5 * log_mean + 0.25 * 4}[draws])
    assert learned < log_mean
