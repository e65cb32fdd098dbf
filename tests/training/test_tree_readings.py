"""Every method is 0 where its flow is balanced and where its policy is right, and only there."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from random_trees import ACTIONS, encoded_tree, encoded_trees, search_tree, tree_seeds
from test_collator import chance_tree
from torch import Tensor

from gflowdial import losses, oracle
from gflowdial.estimators.language_model import PolicyOutput
from gflowdial.losses import Reading, loss_on
from gflowdial.training.methods import METHODS, Method, afpo, method
from gflowdial.training.readings import TREE_INPUTS, read_trees
from gflowdial.training.trees import EncodedTree, TreeBatch, TreeCollator, Untried

TAU = 0.25
BALANCED = {
    "trajectory_balance": method("trajectory_balance"),
    "subtrajectory_balance": method("subtrajectory_balance"),
    "subtrajectory_balance, no decay": method("subtrajectory_balance", decay=1.0),
    "detailed_balance": method("detailed_balance"),
    "forward_looking_detailed_balance": method("forward_looking_detailed_balance"),
    "afpo_anchored": method("afpo_anchored"),
}
each_balanced = pytest.mark.parametrize("name", BALANCED)


def batch_for(chosen: Method, trees: list[EncodedTree]) -> TreeBatch:
    return TreeCollator([5, 9], TAU, untried=chosen.untried, read_leaves=chosen.read_leaves).collate(trees)


def loss(chosen: Method, output: PolicyOutput, batch: TreeBatch) -> float:
    return float(loss_on(chosen.loss, read_trees(output, batch)))


def exact_output(chosen: Method, batch: TreeBatch) -> PolicyOutput:
    """The policy and the values whose flow is the exact one; what the method does not read is noise."""
    generator = torch.Generator().manual_seed(0)
    forest, reads = batch.forest, len(batch.tried)
    log_flow, log_pf = oracle.exact_flows(forest, batch.log_reward.double())
    if chosen.loss is afpo:
        log_flow = log_flow - batch.log_q
    if getattr(chosen.loss, "func", None) is losses.forward_looking_detailed_balance:
        log_flow = log_flow - forest.root_sum(batch.log_turn_reward[forest.edge_child].double())
    state, action = batch.row[forest.edge_parent], batch.action[forest.edge_child]
    # Masked actions may have any logit and the others any common offset; without masking they have no flow.
    log_policy = torch.randn(reads, ACTIONS, generator=generator).double() - (0 if chosen.untried == "masked" else 60)
    log_policy[state, action] = log_pf
    log_value = torch.randn(reads, ACTIONS, generator=generator).double()
    log_value[state, action] = log_flow[forest.edge_child]
    log_state_value = torch.randn(reads, generator=generator).double()
    log_state_value[batch.row[forest.roots]] = log_flow[forest.roots]
    return PolicyOutput(log_policy.log_softmax(-1).float(), log_value.float(), log_state_value.float())


@each_balanced
@given(seeds=tree_seeds(min_nodes=1), untried=st.sampled_from(get_args(Untried)))
def test_at_the_exact_flow_the_loss_is_zero(name: str, seeds: list[tuple[int, int]], untried: Untried) -> None:
    chosen = replace(BALANCED[name], untried=untried)
    batch = batch_for(chosen, encoded_trees(seeds))
    assert loss(chosen, exact_output(chosen, batch), batch) < 1e-9


@each_balanced
@given(seeds=tree_seeds(), untried=st.sampled_from(get_args(Untried)))
def test_another_policy_has_a_loss(name: str, seeds: list[tuple[int, int]], untried: Untried) -> None:
    chosen = replace(BALANCED[name], untried=untried)
    batch = batch_for(chosen, encoded_trees(seeds))
    output = exact_output(chosen, batch)
    widest = int(batch.tried.sum(1).argmax())
    # A single tried action has all the flow whatever the policy says, once the others are masked.
    assume(int(batch.tried[widest].sum()) > 1)
    other = output.log_policy.clone()
    other[widest, int(batch.tried[widest].nonzero()[0])] += 1
    assert loss(chosen, replace(output, log_policy=other.log_softmax(-1)), batch) > 1e-4


def test_masked_normalises_over_the_tried_and_free_over_all() -> None:
    batches = {
        untried: batch_for(Method("trajectory_balance", untried), [encoded_tree(3, 2)]) for untried in get_args(Untried)
    }
    tried = int(batches["masked"].action[1])
    log_policy = torch.log_softmax(torch.arange(ACTIONS).float(), 0)[None]
    output = PolicyOutput(log_policy, torch.zeros(1, ACTIONS), torch.zeros(1))
    log_reward = float(batches["masked"].log_reward)
    masked, free = (loss(Method("trajectory_balance", u), output, batches[u]) for u in ("masked", "free"))
    assert masked == pytest.approx(log_reward**2, rel=1e-5)
    assert free == pytest.approx((float(log_policy[0, tried]) - log_reward) ** 2, rel=1e-5)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("untried", get_args(Untried))
def test_a_tree_without_actions_teaches_its_own_log_z_and_nothing_else(untried: Untried) -> None:
    alone = method("trajectory_balance", untried=untried)
    batch = batch_for(alone, [encoded_tree(0, 1), encoded_tree(1, 6)])
    log_policy = torch.zeros(len(batch.tried), ACTIONS, requires_grad=True)
    log_z = torch.zeros(len(batch.tried), requires_grad=True)
    output = PolicyOutput(log_policy.log_softmax(-1), torch.zeros_like(log_policy), log_z)
    with torch.autograd.detect_anomaly(check_nan=True):
        loss_on(alone.loss, read_trees(output, batch)).backward()
    # The mean over two trees of (log Z - log R)².
    assert float(log_z.grad[0]) == pytest.approx(-float(batch.log_reward[0]), rel=1e-5)
    assert not log_policy.grad[0].any()
    assert log_policy.grad.isfinite().all()


def test_behaviour_cloning_is_the_cross_entropy_to_the_visits() -> None:
    one = EncodedTree(search_tree([-1, 0, 0, 1], [-1, 2, 0, 4], visits=[9, 6, 2, 3]), [[1]] * 4)
    two = EncodedTree(search_tree([-1, 0], [-1, 1]), [[1]] * 2)
    cloning = method("behaviour_cloning")
    batch = batch_for(cloning, [one, two])
    log_policy = torch.randn(3, ACTIONS, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    output = PolicyOutput(log_policy, torch.zeros(3, ACTIONS), torch.zeros(3))
    root = -(6 / 8 * log_policy[0, 2] + 2 / 8 * log_policy[0, 0])
    wanted = (((root - log_policy[1, 4]) / 2) - log_policy[2, 1]) / 2
    assert loss(cloning, output, batch) == pytest.approx(float(wanted), rel=1e-6)


@pytest.mark.parametrize("untried", get_args(Untried))
@given(seeds=tree_seeds())
def test_behaviour_cloning_does_not_depend_on_what_was_not_tried(
    untried: Untried, seeds: list[tuple[int, int]]
) -> None:
    trees = encoded_trees(seeds)
    plain = method("behaviour_cloning", untried=untried)
    batch = batch_for(plain, trees)
    log_policy = torch.linspace(-1, 1, batch.tried.numel()).cos().view_as(batch.tried).log_softmax(-1)
    output = PolicyOutput(log_policy, torch.zeros_like(log_policy), torch.zeros(len(log_policy)))
    wanted = loss(plain, output, batch)
    # Leaves of untried actions have no visits.
    floored = replace(plain, untried="floor")
    assert loss(floored, output, batch_for(floored, trees)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_leaves_are_read_for_the_papers_state_flow_alone(name: str) -> None:
    chosen = method(name)
    assert chosen.read_leaves == (name == "afpo_paper_state")
    batch = batch_for(chosen, [encoded_tree(0, 8)])
    reads_a_leaf = bool((batch.forest.num_children[batch.packed.node] == 0).any())
    assert reads_a_leaf == (name == "afpo_paper_state")


def test_a_reading_has_the_inputs_that_are_listed() -> None:
    batch = batch_for(method("detailed_balance"), [encoded_tree(0, 4)])
    output = PolicyOutput(
        *(torch.zeros(batch.tried.shape).log_softmax(1) for _ in range(2)), torch.zeros(len(batch.tried))
    )
    of_reference = {"log_reference", "log_reference_policy", "negative_log_reference"}
    assert set(read_trees(output, batch)) == TREE_INPUTS - of_reference
    assert set(read_trees(output, replace(batch, log_reference=output.log_policy))) == TREE_INPUTS


def with_reference(batch: TreeBatch, log_policy: Tensor, log_reference: Tensor) -> Reading:
    output = PolicyOutput(log_policy, torch.zeros_like(log_policy), torch.zeros(len(log_policy)))
    return read_trees(output, replace(batch, log_reference=log_reference))


def test_the_kl_term_counts_inner_nodes_alone() -> None:
    batch = batch_for(method("afpo_paper_state"), [encoded_tree(0, 9), encoded_tree(1, 5)])
    inner = batch.forest.num_children[batch.packed.node] > 0
    reference = torch.randn(len(inner), ACTIONS, generator=torch.Generator().manual_seed(0)).log_softmax(-1)

    def kl(log_policy: Tensor) -> float:
        return float(loss_on("reference_kl", with_reference(batch, log_policy, reference), weight=0.5))

    assert kl(reference) == 0
    other = torch.randn(len(inner), ACTIONS, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    assert kl(torch.where(inner[:, None], reference, other)) == 0
    per_state = (other.exp() * (other - reference)).sum(1)
    tree = batch.forest.tree[batch.packed.node]
    by_tree = torch.stack([per_state[inner & (tree == number)].mean() for number in (0, 1)])
    assert kl(torch.where(inner[:, None], other, reference)) == pytest.approx(0.5 * float(by_tree.mean()), rel=1e-5)


def test_a_missing_reference_is_named() -> None:
    batch = batch_for(method("afpo_paper_state"), [encoded_tree(0, 3)])
    output = PolicyOutput(torch.zeros(3, ACTIONS), torch.zeros(3, ACTIONS), torch.zeros(3))
    with pytest.raises(ValueError, match="reference_kl needs log_reference_policy, which this reading has not"):
        loss_on(method("afpo_paper_state").loss, read_trees(output, batch))


def test_the_ranking_term_is_the_hinge_on_siblings() -> None:
    tree = search_tree([-1, 0, 0], [-1, 3, 1], value=torch.tensor([0.5, 0.9, 0.1]).double())
    batch = batch_for(method("afpo_anchored"), [EncodedTree(tree, [[1]] * 3)])
    values = torch.zeros(1, ACTIONS)
    values[0, 1] = 0.3
    output = PolicyOutput(torch.zeros(1, ACTIONS).log_softmax(-1), values, torch.zeros(1))
    term = loss_on("ranking_hinge", read_trees(output, batch), weight=2.0)
    assert float(term) == pytest.approx(2.0 * (0.1 - (0.0 - 0.3)), rel=1e-5)


@pytest.mark.parametrize("untried", get_args(Untried))
def test_a_forbidden_action_never_has_probability(untried: Untried) -> None:
    trees = [encoded_tree(0, 8), encoded_tree(1, 5)]
    for each in trees:
        # Of what was not tried at the root, the first.
        tried = set(each.tree.action[each.tree.forest.parent == 0].tolist())
        each.tree.log_prior[0, min(set(range(ACTIONS)) - tried)] = -torch.inf
    batch = batch_for(method("detailed_balance", untried=untried), trees)
    assert batch.allowed is not None
    logits = torch.randn(len(batch.tried), ACTIONS, generator=torch.Generator().manual_seed(0), requires_grad=True)
    reading = with_reference(batch, logits.log_softmax(-1), torch.zeros(batch.tried.shape).log_softmax(-1))
    acting = batch.forest.num_children[batch.packed.node] > 0
    for name in ("log_policy", "log_reference_policy"):
        assert torch.equal(reading[name] > -torch.inf, batch.allowed[acting])
        torch.testing.assert_close(reading[name].logsumexp(1), torch.zeros(int(acting.sum())))
    # At each state the taken actions have, together, all probability where that is asked, and never more.
    total = torch.zeros(batch.forest.num_nodes).index_add(0, batch.forest.edge_parent, reading["log_pf"].exp())
    share = logits.detach().masked_fill(~batch.allowed, -torch.inf).softmax(1).masked_fill(~batch.tried, 0.0).sum(1)
    expected = torch.ones_like(share) if untried != "free" else share
    torch.testing.assert_close(total[batch.packed.node[acting]], expected[acting])
    reading["log_pf"].sum().backward()
    assert not logits.grad[~batch.allowed].any()


def test_the_world_s_answers_are_edges_with_its_probability() -> None:
    batch = batch_for(method("expected_detailed_balance", untried="free"), [encoded_tree(0, 3), chance_tree()])
    reads = len(batch.tried)
    generator = torch.Generator().manual_seed(0)
    log_policy, log_value, log_reference = torch.randn(3, reads, ACTIONS, generator=generator)
    state = torch.randn(reads, generator=generator)
    output = PolicyOutput(log_policy.log_softmax(1), log_value, state)
    reading = read_trees(output, replace(batch, log_reference=log_reference.log_softmax(1)))
    # Nodes 3 to 7 are the tree with chance: 3 acts, 4 is the world, 5 and 6 its answers, 7 below 5.
    edge = {int(child): place for place, child in enumerate(batch.forest.edge_child)}
    seen = torch.tensor([2 / 3, 1 / 3]).log()
    for name in ("log_pf", "log_reference"):
        torch.testing.assert_close(reading[name][[edge[5], edge[6]]], seen)
    row = batch.row
    torch.testing.assert_close(reading["log_pf"][edge[4]], output.log_policy[row[3], 3])
    torch.testing.assert_close(reading["log_flow"][4], log_value[row[3], 3])
    torch.testing.assert_close(reading["log_flow"][5], state[row[5]])
    assert reading["visits"][[edge[4], edge[5], edge[6], edge[7]]].tolist() == [4, 0, 0, 1]
    assert len(reading["log_policy"]) == len(reading["tree"].ids) == reads
    assert reading["search_value"][edge[5]] == reading["search_value"][edge[6]]
    direct = losses.expected_detailed_balance(
        reading["log_flow"], reading["log_pf"], batch.log_reward, batch.forest, chance=batch.chance
    )
    assert loss_on("expected_detailed_balance", reading) == direct


def test_expected_detailed_balance_learns_the_expected_flow() -> None:
    # All flow goes through the one action that was tried.
    chosen = method("expected_detailed_balance", untried="masked")
    batch = batch_for(chosen, [chance_tree()])
    raw = [torch.zeros(len(batch.tried), n, requires_grad=True) for n in (ACTIONS, ACTIONS, 1)]
    optimiser = torch.optim.Adam(raw, lr=0.05)
    for _ in range(500):
        reading = read_trees(PolicyOutput(raw[0].log_softmax(-1), raw[1], raw[2][:, 0]), batch)
        optimiser.zero_grad()
        loss_on(chosen.loss, reading).backward()
        optimiser.step()
    exact, _ = oracle.expected_flows(
        batch.forest,
        batch.log_reward.double(),
        chance=batch.chance,
        log_chance=batch.log_chance[batch.forest.edge_child].double(),
    )
    inner = batch.forest.num_children > 0
    torch.testing.assert_close(reading["log_flow"][inner].double(), exact[inner], atol=1e-3, rtol=0.0)
