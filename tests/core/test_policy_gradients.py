"""Policy gradients: their expectation is the exact gradient, and merged rollouts are the rollouts one by one."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gflowdial import Forest, losses, oracle, segments
from gflowdial.segments import Segments
from gflowdial.testing import forests, trees, vectors

few = settings(max_examples=15)
DECAYS = st.sampled_from([0.0, 0.3, 0.9, 1.0])


def normalised(logits: Tensor, forest: Forest) -> Tensor:
    states = Segments.from_ids(forest.edge_parent, forest.num_nodes)
    return logits - segments.logsumexp(logits, states)[forest.edge_parent]


def soft_value(log_pf: Tensor, log_reward: Tensor, forest: Forest, entropy: float = 1.0) -> Tensor:
    """``E[log R - entropy · Σ log P_F]`` of the rest of the rollout, node by node from the leaves up."""
    value = log_reward.new_zeros(forest.num_nodes).index_copy(0, forest.leaves, log_reward)
    edges = list(zip(forest.edge_parent.tolist(), forest.edge_child.tolist(), log_pf, strict=True))
    for parent, child, log_p in reversed(edges):
        value = value.index_add(0, torch.tensor([parent]), (log_p.exp() * (value[child] - entropy * log_p))[None])
    return value


def gap(log_pf: Tensor, log_reward: Tensor, forest: Forest, entropy: float = 1.0) -> Tensor:
    """``E[entropy · Σ log P_F - log R]`` over all leaves: KL(P_F ‖ R/Z) less log Z, at ``entropy=1``; over trees."""
    log_p = oracle.terminating_distribution(forest, log_pf)
    return (log_p.exp() * (entropy * log_p - log_reward)).sum() / forest.num_trees


def one_by_one(forest: Forest, visits: list[int]) -> tuple[Forest, Tensor, Tensor, Tensor]:
    """Each rollout as a chain of its own; which node, edge and leaf of the forest each of its places is."""
    edge_of = {int(child): edge for edge, child in enumerate(forest.edge_child)}
    nodes, edges, ends, lengths = [], [], [], []
    for number, (leaf, count) in enumerate(zip(forest.leaves.tolist(), visits, strict=True)):
        path = [leaf]
        while int(forest.parent[path[0]]) >= 0:
            path.insert(0, int(forest.parent[path[0]]))
        for _ in range(count):
            nodes += path
            edges += [edge_of[node] for node in path[1:]]
            ends.append(number)
            lengths.append(len(path) - 1)
    return Forest.from_lengths(lengths), *(torch.tensor(x, dtype=torch.int64) for x in (nodes, edges, ends))


@st.composite
def problems(draw: st.DrawFn, max_nodes: int = 12) -> tuple[Forest, Tensor, Tensor]:
    """``(one enumerated tree, logits, log R)``."""
    forest = draw(trees(max_nodes=max_nodes))
    return forest, draw(vectors(forest.num_edges)), draw(vectors(forest.num_leaves))


def exact_gradient(logits: Tensor, log_reward: Tensor, forest: Forest, entropy: float = 1.0) -> Tensor:
    logits = logits.clone().requires_grad_()
    loss = gap(normalised(logits, forest), log_reward, forest, entropy)
    return torch.autograd.grad(loss, logits, allow_unused=True, materialize_grads=True)[0]


@few
@given(problem=problems(), data=st.data(), entropy=st.sampled_from([0.0, 0.5, 1.0]))
def test_the_expected_gradient_of_reinforce_is_exact_whatever_the_baseline(
    problem: tuple[Forest, Tensor, Tensor], data: st.DataObject, entropy: float
) -> None:
    forest, logits, log_reward = problem
    baseline = data.draw(vectors(forest.num_nodes))
    expected = exact_gradient(logits, log_reward, forest, entropy)
    logits.requires_grad_()
    log_pf = normalised(logits, forest)
    chance = oracle.terminating_distribution(forest, log_pf).exp().detach()
    for loss in (losses.reinforce, partial(losses.policy_gradient, decay=1.0), partial(losses.ppo, decay=1.0)):
        total = torch.zeros((), dtype=torch.float64)
        for leaf in range(forest.num_leaves):
            chain, nodes, edges, ends = one_by_one(forest, [int(leaf == i) for i in range(forest.num_leaves)])
            inputs = baseline[nodes], log_pf[edges], None, log_reward[ends]
            total = total + chance[leaf] * loss(*inputs, chain, entropy=entropy)
        found = torch.autograd.grad(total, logits, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
        torch.testing.assert_close(found, expected)
        # All rollouts at once, each leaf as often as it is probable.
        total = loss(baseline, log_pf, None, log_reward, forest, entropy=entropy, leaf_visits=chance)
        found = torch.autograd.grad(total, logits, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
        torch.testing.assert_close(found, expected)


@few
@given(problem=problems(max_nodes=8), entropy=st.sampled_from([0.0, 0.5, 1.0]))
def test_the_expected_gradient_of_rloo_over_all_pairs_is_exact(
    problem: tuple[Forest, Tensor, Tensor], entropy: float
) -> None:
    forest, logits, log_reward = problem
    expected = exact_gradient(logits, log_reward, forest, entropy)
    logits.requires_grad_()
    log_pf = normalised(logits, forest)
    chance = oracle.terminating_distribution(forest, log_pf).exp().detach()
    total = torch.zeros((), dtype=torch.float64)
    for first in range(forest.num_leaves):
        for second in range(forest.num_leaves):
            visits = [(first == i) + (second == i) for i in range(forest.num_leaves)]
            chains, _, edges, ends = one_by_one(forest, visits)
            group = torch.zeros(2, dtype=torch.int64)
            pair = losses.rloo(log_pf[edges], None, log_reward[ends], chains, group=group, entropy=entropy)
            total = total + chance[first] * chance[second] * pair
    found = torch.autograd.grad(total, logits, allow_unused=True, materialize_grads=True)[0]
    torch.testing.assert_close(found, expected)


@few
@given(problem=problems(), decay=DECAYS, entropy=st.sampled_from([0.0, 0.5, 1.0]))
def test_with_the_policys_own_value_the_expected_credit_is_the_advantage_for_every_decay(
    problem: tuple[Forest, Tensor, Tensor], decay: float, entropy: float
) -> None:
    forest, logits, log_reward = problem
    log_pf = normalised(logits, forest)
    value = soft_value(log_pf, log_reward, forest, entropy)
    chance = oracle.terminating_distribution(forest, log_pf).exp()
    found = losses.turn_credit(
        value, log_pf, None, log_reward, forest, decay=decay, entropy=entropy, leaf_visits=chance
    )
    advantage = value[forest.edge_child] - entropy * log_pf - value[forest.edge_parent]
    torch.testing.assert_close(found, advantage)
    logits.requires_grad_()
    log_pf = normalised(logits, forest)
    loss = losses.policy_gradient(
        value, log_pf, None, log_reward, forest, decay=decay, entropy=entropy, leaf_visits=chance
    )
    gradient = torch.autograd.grad(loss, logits, allow_unused=True, materialize_grads=True)[0]
    torch.testing.assert_close(gradient, exact_gradient(logits.detach(), log_reward, forest, entropy))


@few
@given(forest=forests(max_nodes=20), data=st.data(), decay=DECAYS)
def test_at_the_exact_flow_nothing_is_to_be_gained(forest: Forest, data: st.DataObject, decay: float) -> None:
    log_reward = data.draw(vectors(forest.num_leaves))
    log_flow, log_pf = oracle.exact_flows(forest, log_reward)
    credit = losses.turn_credit(log_flow, log_pf, None, log_reward, forest, decay=decay)
    torch.testing.assert_close(credit, torch.zeros_like(credit), atol=1e-12, rtol=0.0)
    inputs = [log_flow.requires_grad_(), log_pf.requires_grad_()]
    group = torch.arange(forest.num_trees)
    for loss in (
        losses.policy_gradient(*inputs, None, log_reward, forest, decay=decay),
        losses.reinforce(*inputs, None, log_reward, forest),
        losses.ppo(*inputs, None, log_reward, forest, log_behaviour=log_pf.detach() - 0.4),
        losses.rloo(inputs[1], None, log_reward, forest, group=group),
        losses.grpo(inputs[1], None, log_reward, forest, group=group),
    ):
        for gradient in torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True):
            assert (gradient.abs() < 1e-9).all()


def every_loss(behaviour: Tensor, group: Tensor) -> dict[str, Callable[..., Tensor]]:
    def grouped(loss: Callable[..., Tensor], **options: object) -> Callable[..., Tensor]:
        return lambda _, *rest, **visits: loss(*rest, group=group, **options, **visits)

    return {
        "policy gradient": partial(losses.policy_gradient, decay=0.7),
        "reinforce": losses.reinforce,
        "rloo": grouped(losses.rloo, entropy=0.7),
        "grpo": grouped(losses.grpo, log_behaviour=behaviour),
    }


@few
@given(problem=problems(), data=st.data())
def test_merged_rollouts_are_the_rollouts_one_by_one(
    problem: tuple[Forest, Tensor, Tensor], data: st.DataObject
) -> None:
    forest, logits, log_reward = problem
    visits = data.draw(st.lists(st.integers(0, 3), min_size=forest.num_leaves, max_size=forest.num_leaves))
    if not sum(visits):
        visits[0] = 1
    log_flow, log_pb = data.draw(vectors(forest.num_nodes)), -data.draw(vectors(forest.num_edges)).abs()
    # What no rollout passed may hold anything.
    log_pf = logits - 1
    untaken = forest.edge_sum(torch.tensor(visits).double()) == 0
    log_pf[untaken] = -torch.inf
    behaviour = log_pf + data.draw(vectors(forest.num_edges)) / 10
    chains, nodes, edges, ends = one_by_one(forest, visits)
    merged_inputs = [log_flow.requires_grad_(), log_pf.requires_grad_()]
    merged = every_loss(behaviour, torch.zeros(1, dtype=torch.int64))
    listed = every_loss(behaviour[edges], torch.zeros(len(ends), dtype=torch.int64))
    for name in merged:
        count = {"leaf_visits": torch.tensor(visits).double()}
        total = merged[name](*merged_inputs, log_pb, log_reward, forest, **count)
        single = listed[name](log_flow[nodes], log_pf[edges], log_pb[edges], log_reward[ends], chains)
        if name != "policy gradient" and name != "reinforce":
            torch.testing.assert_close(total, single)
        # The value error of a mean is not the mean of errors, but has its gradient.
        found, expected = (
            torch.autograd.grad(x, merged_inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
            for x in (total, single)
        )
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)
    credit = losses.turn_credit(log_flow, log_pf, log_pb, log_reward, forest, decay=0.7, **count)
    alone = losses.turn_credit(log_flow[nodes], log_pf[edges], log_pb[edges], log_reward[ends], chains, decay=0.7)
    through = forest.edge_sum(torch.tensor(visits).double())
    mean = torch.zeros_like(credit).index_add(0, edges, alone) / through.clamp(min=1)
    torch.testing.assert_close(credit, mean)


def test_grpo_and_ppo_by_their_formulas() -> None:
    """Two rollouts of one turn and one of two, one group."""
    chains = Forest.from_lengths([1, 1, 2])
    log_pf = torch.tensor([-0.5, -1.0, -0.7, -0.2], dtype=torch.float64)
    before = torch.tensor([-0.9, -0.9, -0.7, -0.6], dtype=torch.float64)
    reward = torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)
    ratio = (log_pf - before).exp().tolist()
    advantage = [(g - 2.0) / ((2 / 3) ** 0.5 + 1e-4) for g in reward.tolist()]

    def gain(r: float, a: float) -> float:
        return min(r * a, min(max(r, 0.8), 1.2) * a)

    wanted = gain(ratio[0], advantage[0]) + gain(ratio[1], advantage[1])
    wanted += (gain(ratio[2], advantage[2]) + gain(ratio[3], advantage[2])) / 2
    group = torch.zeros(3, dtype=torch.int64)
    found = losses.grpo(log_pf, None, reward, chains, group=group, entropy=0.0, log_behaviour=before)
    assert float(found) == pytest.approx(-wanted / 3)
    value = torch.zeros(7, dtype=torch.float64)
    credit = losses.turn_credit(value, log_pf, None, reward, chains, decay=0.5, entropy=0.0)
    assert credit.tolist() == [1.0, 3.0, 1.0, 2.0]
    wanted = sum(gain(r, a) for r, a in zip(ratio, credit.tolist(), strict=True)) / 3
    found = losses.ppo(
        value, log_pf, None, reward, chains, decay=0.5, entropy=0.0, value_weight=0.0, log_behaviour=before
    )
    assert float(found) == pytest.approx(-wanted)
    with_value = losses.ppo(value, log_pf, None, reward, chains, decay=0.5, entropy=0.0, log_behaviour=before)
    assert float(with_value - found) == pytest.approx(0.5 * (1 + 9 + 1 + 4) / 3)


def test_the_value_learns_the_rest_of_the_rollout_and_the_policy_learns_no_value() -> None:
    chains = Forest.from_lengths([2])
    log_flow = torch.tensor([0.5, 0.25, 9.0], dtype=torch.float64, requires_grad=True)
    log_pf = torch.tensor([-1.0, -2.0], dtype=torch.float64, requires_grad=True)
    reward = torch.tensor([4.0], dtype=torch.float64, requires_grad=True)
    losses.reinforce(log_flow, log_pf, None, reward, chains, value_weight=2.0).backward()
    # G from each state on is 4 + 3 and 4 + 2.
    assert log_flow.grad.tolist() == [-4 * (7 - 0.5), -4 * (6 - 0.25), 0.0]
    assert log_pf.grad.tolist() == [-(7 - 0.5), -(6 - 0.25)]
    assert reward.grad is None


def test_a_group_of_one_rollout_teaches_nothing() -> None:
    chains = Forest.from_lengths([1, 2])
    log_pf = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    for loss in (losses.rloo, losses.grpo):
        alone = loss(log_pf, None, torch.tensor([1.0, 5.0]), chains, group=torch.arange(2))
        assert not torch.autograd.grad(alone, log_pf)[0].any()


def test_bad_settings_are_named() -> None:
    chains = Forest.from_lengths([1])
    inputs = torch.zeros(2), torch.zeros(1), None, torch.zeros(1)
    with pytest.raises(ValueError, match="clip is 0"):
        losses.ppo(*inputs, chains, clip=0.0)
    with pytest.raises(ValueError, match="decay"):
        losses.turn_credit(*inputs, chains, decay=1.5)


def test_policy_gradients_reach_the_flow() -> None:
    """A tree of 3² leaves: rollouts of the current policy, merged, until it samples leaves in proportion to R."""
    forest = Forest.from_parents(torch.tensor([-1, 0, 0, 0, *[n for n in (1, 2, 3) for _ in range(3)]]))
    generator = torch.Generator().manual_seed(0)
    log_reward = torch.randn(9, generator=generator, dtype=torch.float64)
    exact = oracle.terminating_distribution(forest, oracle.exact_flows(forest, log_reward)[1]).exp()
    logits = torch.zeros(12, dtype=torch.float64, requires_grad=True)
    log_flow = torch.zeros(13, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([logits, log_flow], lr=0.03)
    for _ in range(400):
        log_pf = normalised(logits, forest)
        ends = oracle.terminating_distribution(forest, log_pf).exp().detach()
        visits = torch.bincount(
            torch.multinomial(ends, 16, replacement=True, generator=generator), minlength=9
        ).double()
        optimiser.zero_grad()
        losses.policy_gradient(log_flow, log_pf, None, log_reward, forest, leaf_visits=visits).backward()
        optimiser.step()
    assert float((ends - exact).abs().sum() / 2) < 0.02


def group_gradients() -> tuple[Tensor, Tensor, Tensor, Forest, Tensor]:
    """``(log_pf, ζ by group, the gradient of log_partition_variance, chains, log_reward)`` of three groups of four."""
    generator = torch.Generator().manual_seed(0)
    chains = Forest.from_lengths(torch.randint(1, 5, (12,), generator=generator))
    log_pf = torch.randn(chains.num_edges, generator=generator).double().requires_grad_()
    log_reward, group = torch.randn(12, generator=generator).double(), torch.arange(12) // 4
    zeta = (log_reward - chains.leaf_sum(log_pf)).view(3, 4)
    variance = losses.log_partition_variance(log_pf, None, log_reward, chains, group=group)
    return log_pf, zeta, torch.autograd.grad(variance, log_pf, retain_graph=True)[0], chains, log_reward


def test_contrastive_balance_of_pairs_is_the_variance_of_log_z() -> None:
    """The mean over pairs of (ζ_i - ζ_j)²/2 has n / (n - 1) times its gradient."""
    log_pf, zeta, expected, *_ = group_gradients()
    pairs = (zeta[:, :, None] - zeta[:, None]).square().sum((1, 2)) / (4 * 3) / 2
    torch.testing.assert_close(torch.autograd.grad(pairs.mean(), log_pf)[0], 4 / 3 * expected)


def test_trajectory_balance_with_the_groups_own_log_z_is_the_variance_of_log_z() -> None:
    """log Z estimated by the mean of ζ over the group, without gradient."""
    log_pf, zeta, expected, *_ = group_gradients()
    estimate = zeta.mean(1, keepdim=True).detach()
    torch.testing.assert_close(torch.autograd.grad((zeta - estimate).square().mean(), log_pf)[0], expected)


def test_rloo_without_entropy_is_grpo_without_its_biases() -> None:
    """Dr. GRPO: A = log R - mean, no division by std or length; a step of it is RLOO's times (n - 1) / n."""
    log_pf, _, _, chains, log_reward = group_gradients()
    advantage = log_reward.view(3, 4) - log_reward.view(3, 4).mean(1, keepdim=True)
    ratio = (log_pf - log_pf.detach()).exp()
    dr_grpo = -(advantage.flatten() * chains.leaf_sum(ratio)).mean()
    rloo = losses.rloo(log_pf, None, log_reward, chains, group=torch.arange(12) // 4, entropy=0.0)
    found, expected = (torch.autograd.grad(x, log_pf)[0] for x in (rloo, dr_grpo))
    torch.testing.assert_close(found, 4 / 3 * expected)


def test_rloo_of_the_whole_return_is_the_variance_of_log_z() -> None:
    """n / (2·(n - 1)) times its gradient."""
    log_pf, _, expected, chains, log_reward = group_gradients()
    found = torch.autograd.grad(losses.rloo(log_pf, None, log_reward, chains, group=torch.arange(12) // 4), log_pf)[0]
    torch.testing.assert_close(found, 4 / 6 * expected)
