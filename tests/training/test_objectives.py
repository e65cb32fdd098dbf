"""Every objective is 0 where its flow is balanced and where its policy is right, and only there."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from gflowdial.training.objectives import Objective, needs_reference, objective_terms
from hypothesis import assume, given
from hypothesis import strategies as st
from random_trees import ACTIONS, tree_example, tree_examples, tree_seeds
from torch import Tensor

from examples.aflow_esc.config import Method, TrainingConfig
from examples.aflow_esc.methods import METHODS, objective
from gflowdial import oracle
from gflowdial.estimators.language_model import PolicyOutput
from gflowdial.training.trees import TreeBatch, TreeCollator, TreeExample, Untried

TAU = 0.25
BALANCED = [
    Objective("trajectory_balance", temperature=TAU),
    Objective("subtrajectory_balance", temperature=TAU),
    Objective("subtrajectory_balance", temperature=TAU, decay=1.0),
    Objective("afpo", variant="anchored", temperature=TAU),
]


def batch_for(objective: Objective, examples: list[TreeExample]) -> TreeBatch:
    return TreeCollator(
        [5, 9],
        objective.temperature,
        untried=objective.untried,
        floor=objective.floor,
        read_leaves=objective.reads_leaves,
    ).collate(examples)


def loss(objective: Objective, output: PolicyOutput, batch: TreeBatch, reference: Tensor | None = None) -> float:
    return float(sum(objective_terms(objective, output, batch, reference).values()))


def exact_output(objective: Objective, batch: TreeBatch) -> PolicyOutput:
    """The policy and the values whose flow is the exact one; what the objective does not read is noise."""
    generator = torch.Generator().manual_seed(0)
    forest, reads = batch.forest, len(batch.tried)
    log_flow, log_pf = oracle.exact_flows(forest, batch.log_reward.double())
    if objective.name == "afpo":
        log_flow = log_flow - batch.log_q
    state, action = batch.row[forest.edge_parent], batch.action[forest.edge_child]
    # Masked actions may have any logit and the others any common offset; without masking they have no flow.
    log_policy = torch.randn(reads, ACTIONS, generator=generator).double() - (
        0 if objective.untried == "masked" else 60
    )
    log_policy[state, action] = log_pf
    log_value = torch.randn(reads, ACTIONS, generator=generator).double()
    log_value[state, action] = log_flow[forest.edge_child]
    log_state_value = torch.randn(reads, generator=generator).double()
    log_state_value[batch.row[forest.roots]] = log_flow[forest.roots]
    return PolicyOutput(log_policy.log_softmax(-1).float(), log_value.float(), log_state_value.float())


@pytest.mark.parametrize("objective", BALANCED, ids=lambda o: f"{o.name}-{o.decay}")
@given(seeds=tree_seeds(min_nodes=1), untried=st.sampled_from(get_args(Untried)))
def test_at_the_exact_flow_the_loss_is_zero(
    objective: Objective, seeds: list[tuple[int, int]], untried: Untried
) -> None:
    objective = replace(objective, untried=untried)
    batch = batch_for(objective, tree_examples(seeds))
    assert loss(objective, exact_output(objective, batch), batch) < 1e-9


@pytest.mark.parametrize("objective", BALANCED, ids=lambda o: f"{o.name}-{o.decay}")
@given(seeds=tree_seeds(), untried=st.sampled_from(get_args(Untried)))
def test_another_policy_has_a_loss(objective: Objective, seeds: list[tuple[int, int]], untried: Untried) -> None:
    objective = replace(objective, untried=untried)
    batch = batch_for(objective, tree_examples(seeds))
    output = exact_output(objective, batch)
    widest = int(batch.tried.sum(1).argmax())
    # A single tried action has all the flow whatever the policy says, once the others are masked.
    assume(int(batch.tried[widest].sum()) > 1)
    other = output.log_policy.clone()
    other[widest, int(batch.tried[widest].nonzero()[0])] += 1
    assert loss(objective, replace(output, log_policy=other.log_softmax(-1)), batch) > 1e-4


def test_masked_normalises_over_the_tried_and_zero_over_all() -> None:
    batch = batch_for(Objective("trajectory_balance", temperature=TAU), [tree_example(3, 2)])
    tried = int(batch.action[1])
    log_policy = torch.log_softmax(torch.arange(ACTIONS).float(), 0)[None]
    output = PolicyOutput(log_policy, torch.zeros(1, ACTIONS), torch.zeros(1))
    log_reward = float(batch.log_reward)
    masked = loss(Objective("trajectory_balance", untried="masked"), output, batch)
    zero = loss(Objective("trajectory_balance", untried="zero"), output, batch)
    assert masked == pytest.approx(log_reward**2, rel=1e-5)
    assert zero == pytest.approx((float(log_policy[0, tried]) - log_reward) ** 2, rel=1e-5)


@pytest.mark.parametrize("untried", get_args(Untried))
def test_a_tree_without_actions_teaches_its_own_log_z_and_nothing_else(untried: Untried) -> None:
    alone = Objective("trajectory_balance", temperature=TAU, untried=untried)
    batch = batch_for(alone, [tree_example(0, 1), tree_example(1, 6)])
    log_policy = torch.zeros(len(batch.tried), ACTIONS, requires_grad=True)
    log_z = torch.zeros(len(batch.tried), requires_grad=True)
    output = PolicyOutput(log_policy.log_softmax(-1), torch.zeros_like(log_policy), log_z)
    (term,) = objective_terms(alone, output, batch, None).values()
    term.backward()
    # The mean over two trees of (log Z − log R)².
    assert float(log_z.grad[0]) == pytest.approx(-float(batch.log_reward[0]), rel=1e-5)
    assert not log_policy.grad[0].any()
    assert log_policy.grad.isfinite().all()


def test_behaviour_cloning_is_the_cross_entropy_to_the_visits() -> None:
    one = replace(
        tree_example(0, 4), parent=[-1, 0, 0, 1], action=np.array([-1, 2, 0, 4]), visits=np.array([9, 6, 2, 3])
    )
    two = replace(tree_example(0, 2), action=np.array([-1, 1]))
    cloning = Objective("behaviour_cloning", temperature=TAU)
    batch = batch_for(cloning, [one, two])
    log_policy = torch.randn(3, ACTIONS, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    output = PolicyOutput(log_policy, torch.zeros(3, ACTIONS), torch.zeros(3))
    root = -(6 / 8 * log_policy[0, 2] + 2 / 8 * log_policy[0, 0])
    wanted = (((root - log_policy[1, 4]) / 2) - log_policy[2, 1]) / 2
    assert loss(cloning, output, batch) == pytest.approx(float(wanted), rel=1e-6)


@pytest.mark.parametrize("untried", get_args(Untried))
@given(seeds=tree_seeds())
def test_behaviour_cloning_does_not_hang_on_what_was_not_tried(untried: Untried, seeds: list[tuple[int, int]]) -> None:
    examples = tree_examples(seeds)
    plain = batch_for(Objective("behaviour_cloning"), examples)
    log_policy = torch.linspace(-1, 1, plain.tried.numel()).cos().view_as(plain.tried).log_softmax(-1)
    output = PolicyOutput(log_policy, torch.zeros_like(log_policy), torch.zeros(len(log_policy)))
    other = Objective("behaviour_cloning", untried=untried)
    wanted = loss(Objective("behaviour_cloning"), output, plain)
    assert loss(other, output, batch_for(other, examples)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("method", get_args(Method))
def test_leaves_are_read_for_the_papers_state_flow_alone(method: Method) -> None:
    chosen = objective(method, TrainingConfig(methods=[method]))
    assert chosen.reads_leaves == (method == "afpo_paper_state")
    batch = batch_for(chosen, [tree_example(0, 8)])
    reads_a_leaf = bool((batch.forest.num_children[batch.packed.node] == 0).any())
    assert reads_a_leaf == (method == "afpo_paper_state")


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_has_a_finite_gradient(method: Method) -> None:
    chosen = objective(method, TrainingConfig(methods=[method]))
    batch = batch_for(chosen, [tree_example(0, 8), tree_example(1, 1), tree_example(2, 2)])
    raw = [torch.zeros(len(batch.tried), n, requires_grad=True) for n in (ACTIONS, ACTIONS, 1)]
    output = PolicyOutput(raw[0].log_softmax(-1), raw[1], raw[2][:, 0])
    reference = torch.zeros(len(batch.tried), ACTIONS).log_softmax(-1)
    total = sum(objective_terms(chosen, output, batch, reference).values())
    total.backward()
    assert all(x.grad is None or x.grad.isfinite().all() for x in raw)
    assert raw[0].grad.any()


def test_every_method_of_the_settings_is_built() -> None:
    assert set(METHODS) == set(get_args(Method))


STATE_FLOW = Objective("afpo", variant="paper", flow="state", temperature=TAU, untried="zero", kl_weight=0.5)


def kl_term(log_policy: Tensor, log_reference: Tensor, batch: TreeBatch) -> float:
    output = PolicyOutput(log_policy, torch.zeros_like(log_policy), torch.zeros(len(log_policy)))
    return float(objective_terms(STATE_FLOW, output, batch, log_reference)["kl"])


def test_the_kl_term_counts_inner_nodes_alone() -> None:
    batch = batch_for(STATE_FLOW, [tree_example(0, 9), tree_example(1, 5)])
    inner = batch.forest.num_children[batch.packed.node] > 0
    reference = torch.randn(len(inner), ACTIONS, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    assert kl_term(reference, reference, batch) == 0
    other = torch.randn(len(inner), ACTIONS, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    at_leaves = torch.where(inner[:, None], reference, other)
    assert kl_term(at_leaves, reference, batch) == 0
    at_inner = torch.where(inner[:, None], other, reference)
    per_state = (other.exp() * (other - reference)).sum(1)
    tree = batch.forest.tree[batch.packed.node]
    by_tree = torch.stack([per_state[inner & (tree == number)].mean() for number in (0, 1)])
    assert kl_term(at_inner, reference, batch) == pytest.approx(0.5 * float(by_tree.mean()), rel=1e-5)


def test_a_missing_reference_is_named() -> None:
    assert needs_reference(STATE_FLOW)
    batch = batch_for(STATE_FLOW, [tree_example(0, 3)])
    output = PolicyOutput(torch.zeros(3, ACTIONS), torch.zeros(3, ACTIONS), torch.zeros(3))
    with pytest.raises(ValueError, match="pass the reference policy"):
        objective_terms(STATE_FLOW, output, batch, None)


def test_the_ranking_term_is_the_hinge_on_siblings() -> None:
    ranked = Objective("afpo", variant="anchored", temperature=TAU, ranking_weight=2.0)
    example = replace(
        tree_example(0, 3), parent=[-1, 0, 0], action=np.array([-1, 3, 1]), value=np.array([0.5, 0.9, 0.1])
    )
    batch = batch_for(ranked, [example])
    values = torch.zeros(1, ACTIONS)
    values[0, 1] = 0.3
    output = PolicyOutput(torch.zeros(1, ACTIONS).log_softmax(-1), values, torch.zeros(1))
    term = objective_terms(ranked, output, batch, None)["ranking"]
    assert float(term) == pytest.approx(2.0 * (0.1 - (0.0 - 0.3)), rel=1e-5)
