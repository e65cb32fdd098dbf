"""Methods by name: each carries the run's settings, and the published ones their extra terms."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from random_trees import ACTIONS, encoded_tree

from gflowdial import losses
from gflowdial.estimators.language_model import PolicyOutput
from gflowdial.losses import LOSSES, Sum, inputs_of, loss_on
from gflowdial.training.methods import METHODS, ON_POLICY, Method, afpo, method, method_names
from gflowdial.training.readings import TREE_INPUTS, read_trees
from gflowdial.training.trees import TreeCollator, Untried

PUBLISHED = {
    "afpo_paper_edge": {"variant": "paper", "flow": "edge"},
    "afpo_paper_state": {"variant": "paper", "flow": "state"},
}
RELEASED = {
    "afpo_released_first": {"flow", "kl", "margin"},
    "afpo_released_second": {"flow", "margin"},
    "afpo_without_flow_balance": {"preference", "margin"},
    "afpo_without_process_supervision": {"flow", "kl"},
}


def chosen(name: str, kl_weight: float = 0.4, ranking_weight: float = 0.6) -> Method:
    return method(name, untried="floor", decay=0.7, kl_weight=kl_weight, ranking_weight=ranking_weight)


def test_every_loss_that_trees_have_the_inputs_of_is_a_method() -> None:
    assert set(method_names()) == {*METHODS, *(name for name in LOSSES if inputs_of(name) <= TREE_INPUTS)}
    assert {name for name in method_names() if method(name).on_policy} == ON_POLICY
    some = {"behaviour_cloning", "trajectory_balance", "afpo_anchored", "dpo", "rloo", "policy_gradient"}
    assert some | set(PUBLISHED) | set(RELEASED) <= set(method_names())


@pytest.mark.parametrize("name", method_names())
def test_methods_carry_the_settings(name: str) -> None:
    # Behaviour cloning is normalised over all actions, whatever was tried.
    free = name in PUBLISHED or name in RELEASED or name == "behaviour_cloning"
    own: dict[str, Untried] = {"afpo_truncated": "masked"}
    assert chosen(name).untried == own.get(name, "free" if free else "floor")
    assert isinstance(chosen(name).loss, Sum) == (name in PUBLISHED or name in RELEASED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_variants_have_two_more_terms_where_they_have_a_weight(name: str) -> None:
    terms = chosen(name).loss.losses
    assert terms["afpo"].func is afpo
    assert terms["afpo"].keywords == PUBLISHED[name]
    assert (terms["kl"].func, terms["kl"].keywords) == (losses.reference_kl, {"weight": 0.4})
    assert (terms["ranking"].func, terms["ranking"].keywords) == (losses.ranking_hinge, {"weight": 0.6})
    assert list(chosen(name, 0.0, 0.0).loss.losses) == ["afpo"]
    assert "log_reference_policy" not in inputs_of(chosen(name, kl_weight=0.0).loss)


@pytest.mark.parametrize("name", RELEASED)
def test_the_releases_and_their_ablations_have_the_terms_of_their_code(name: str) -> None:
    terms = chosen(name).loss.losses
    assert set(terms) == RELEASED[name]
    if "kl" in terms:
        assert (terms["kl"].func, terms["kl"].keywords) == (losses.released_kl, {"weight": 0.4})
    assert chosen(name).ranks_by_value == ("margin" in terms)


@pytest.mark.parametrize("name", [*RELEASED, *PUBLISHED])
def test_published_methods_read_the_mean_return_and_their_own_value(name: str) -> None:
    """Each method is its terms on Q̂, log P_F, V and the negatives, found edge by edge in the trees themselves."""
    each = method(name)
    trees = [encoded_tree(seed, nodes) for seed, nodes in ((0, 8), (1, 1), (3, 6))]
    # At one state the prior was not asked: its own action stands for the negatives.
    trees[0].tree.log_prior[0] = torch.nan
    batch = TreeCollator([5, 9], 0.1, untried=each.untried, read_leaves=each.read_leaves).collate(trees)
    generator, reads = torch.Generator().manual_seed(0), len(batch.tried)
    raw = [torch.randn(reads, n, generator=generator) for n in (ACTIONS, ACTIONS, 1, ACTIONS)]
    log_policy, reference = raw[0].log_softmax(-1), raw[3].log_softmax(-1)
    output = PolicyOutput(log_policy, raw[1], raw[2][:, 0])
    found = each.loss.terms(read_trees(output, replace(batch, log_reference=reference)))
    forest = batch.forest
    mean_return = torch.cat([tree.tree.value for tree in trees]).float()
    log_prior = torch.cat([tree.tree.log_prior for tree in trees])
    columns: dict[str, list[torch.Tensor]] = {column: [] for column in ("log_pf", "log_ref", "raw")}
    for parent, child in zip(forest.edge_parent.tolist(), forest.edge_child.tolist(), strict=True):
        row, action = int(batch.row[parent]), int(batch.action[child])
        unknown = bool(log_prior[parent].isnan().any())
        least = [action] * 3 if unknown else log_prior[parent].argsort()[:3].tolist()
        for column, table in (("log_pf", log_policy), ("log_ref", reference), ("raw", raw[1])):
            columns[column].append(table[row, [action, *least]])
    log_pf, log_ref, value = (torch.stack(columns[column]) for column in ("log_pf", "log_ref", "raw"))
    if name in PUBLISHED:
        state = torch.where(batch.row >= 0, raw[2][:, 0][batch.row.clamp(min=0)], 0.0)
        log_value = state.index_copy(0, forest.edge_child, value[:, 0])
        log_value = state if name == "afpo_paper_state" else log_value
        flow = losses.afpo(mean_return.log() + log_value, log_pf[:, 0], None, None, forest, **PUBLISHED[name])
        assert float(found["afpo"]) == pytest.approx(float(flow), rel=1e-5)
        return
    v = torch.nn.functional.softplus(value)
    terms = {
        "flow": losses.released_flow_balance(
            mean_return, v[:, 0], log_pf[:, 0], forest, release="first" if name == "afpo_released_first" else "second"
        ),
        "kl": losses.released_kl(log_pf[:, 0], log_ref[:, 0], forest),
        "margin": losses.value_margin(v[:, 0], v[:, 1:], forest),
        "preference": losses.released_preference(log_pf[:, 0], log_ref[:, 0], log_pf[:, 1:], log_ref[:, 1:], forest),
    }
    for term in RELEASED[name]:
        assert float(found[term]) == pytest.approx(float(terms[term]), rel=1e-5)


def test_the_anchored_variant_stands_alone() -> None:
    assert chosen("afpo_anchored").loss is afpo
    assert chosen("afpo").loss is afpo


def test_options_are_those_of_the_loss() -> None:
    assert chosen("subtrajectory_balance").loss.keywords == {"decay": 0.7}
    assert chosen("trajectory_balance").loss.keywords == {}
    huber = method("subtrajectory_balance", {"penalty": losses.huber, "decay": 0.2}).loss
    assert (huber.func, huber.keywords) == (losses.subtrajectory_balance, {"penalty": losses.huber, "decay": 0.2})
    with pytest.raises(ValueError, match="penality is no option of method 'detailed_balance': it has penalty"):
        method("detailed_balance", {"penality": losses.huber})
    with pytest.raises(ValueError, match="decay is no option of method 'afpo_paper_edge': it has none"):
        method("afpo_paper_edge", {"decay": 0.5})


def test_what_is_no_method_is_refused() -> None:
    with pytest.raises(
        ValueError, match="'nonsense' is the name of no method: choose one of behaviour_cloning, afpo, "
    ):
        method("nonsense")
    with pytest.raises(ValueError, match="'afpo_anchord' is the name of no method: choose afpo_anchored"):
        method("afpo_anchord")
    with pytest.raises(ValueError, match="'flow_matching' is the name of no method; search trees lack states: choose"):
        method("flow_matching")


@pytest.mark.parametrize("untried", get_args(Untried))
@pytest.mark.parametrize("name", method_names())
def test_every_method_has_a_finite_gradient(name: str, untried: Untried) -> None:
    each = method(name, untried=untried)
    collator = TreeCollator([5, 9], 0.1, untried=each.untried, read_leaves=each.read_leaves)
    trees = [encoded_tree(0, 8), encoded_tree(1, 1), encoded_tree(2, 2)]
    batch = collator.collate(trees)
    reads = len(batch.tried)
    known = torch.zeros(reads, ACTIONS).log_softmax(-1)
    raw = [torch.randn(reads, n, generator=torch.Generator().manual_seed(n)) for n in (ACTIONS, ACTIONS, 1)]
    for x in raw:
        x.requires_grad_()
    reading = read_trees(
        PolicyOutput(raw[0].log_softmax(-1), raw[1], raw[2][:, 0]), replace(batch, log_reference=known)
    )
    loss_on(each.loss, reading).backward()
    assert all(x.grad is None or x.grad.isfinite().all() for x in raw)
    # The hinges alone rank values; everything else teaches the policy, but a KL that is cut off at 0.
    assert name == "released_kl" or raw[1 if name in ("ranking_hinge", "value_margin") else 0].grad.any()
