"""Methods by name: each carries the run's settings, and the published ones their extra terms."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from random_trees import ACTIONS, encoded_tree

from gflowdial import losses
from gflowdial.estimators.language_model import PolicyOutput
from gflowdial.losses import LOSSES, Sum, inputs_of, loss_on
from gflowdial.training.methods import METHODS, Method, afpo, method, method_names
from gflowdial.training.readings import TREE_INPUTS, read_trees
from gflowdial.training.trees import TreeCollator, Untried

PUBLISHED = {
    "afpo_released": {"variant": "released"},
    "afpo_paper_edge": {"variant": "paper", "flow": "edge"},
    "afpo_paper_state": {"variant": "paper", "flow": "state"},
}


def chosen(name: str, kl_weight: float = 0.4, ranking_weight: float = 0.6) -> Method:
    return method(name, untried="floor", decay=0.7, kl_weight=kl_weight, ranking_weight=ranking_weight)


def test_every_loss_that_trees_have_the_inputs_of_is_a_method() -> None:
    assert set(method_names()) == {*METHODS, *(name for name in LOSSES if inputs_of(name) <= TREE_INPUTS)}
    assert {"behaviour_cloning", "trajectory_balance", "subtrajectory_balance", "afpo_anchored", *PUBLISHED} <= {
        *method_names()
    }


@pytest.mark.parametrize("name", method_names())
def test_methods_carry_the_settings(name: str) -> None:
    # Behaviour cloning is normalised over all actions, whatever was tried.
    zero = name in PUBLISHED or name == "behaviour_cloning"
    assert chosen(name).untried == ("free" if zero else "floor")
    assert isinstance(chosen(name).loss, Sum) == (name in PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_variants_have_two_more_terms_where_they_have_a_weight(name: str) -> None:
    terms = chosen(name).loss.losses
    assert terms["afpo"].func is afpo
    assert terms["afpo"].keywords == PUBLISHED[name]
    assert (terms["kl"].func, terms["kl"].keywords) == (losses.reference_kl, {"weight": 0.4})
    assert (terms["ranking"].func, terms["ranking"].keywords) == (losses.ranking_hinge, {"weight": 0.6})
    assert list(chosen(name, 0.0, 0.0).loss.losses) == ["afpo"]
    assert "log_reference_policy" not in inputs_of(chosen(name, kl_weight=0.0).loss)


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
    with pytest.raises(ValueError, match="decay is no option of method 'afpo_released': it has none"):
        method("afpo_released", {"decay": 0.5})


def test_what_is_no_method_is_refused() -> None:
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
    # The hinge alone ranks values; everything else teaches the policy.
    assert raw[1 if name == "ranking_hinge" else 0].grad.any()
