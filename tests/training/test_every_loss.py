"""Every loss that has the inputs trains an estimator in an environment and a language model on search trees.

The numbers are reference values, computed without readings.
"""

from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from random_trees import ACTIONS, encoded_tree, encoded_trees
from test_collator import chance_tree
from transformers import LlamaForCausalLM, set_seed

from gflowdial.envs import Environment, Hypergrid, MoveSequences
from gflowdial.estimators import MLPTrunk, NetworkFlow, TabularLogZ
from gflowdial.estimators.language_model import LanguageModelPolicy, PolicyOutput
from gflowdial.losses import LOSSES, Reading, inputs_of, loss_on
from gflowdial.sampling import Trajectories, read_trajectories, sample_forward
from gflowdial.training.loop import train
from gflowdial.training.methods import method
from gflowdial.training.readings import TREE_INPUTS, read_trees
from gflowdial.training.trainer import FlowTrainer, FlowTrainingArguments
from gflowdial.training.trees import TreeCollator

IN_ENVIRONMENTS = {
    ("hypergrid", "trajectory_balance"): 1.048529940281564,
    ("hypergrid", "log_partition_variance"): 0.8848484172707363,
    ("hypergrid", "detailed_balance"): 0.9909688660023616,
    ("hypergrid", "subtrajectory_balance"): 1.7534784804623964,
    ("hypergrid", "modified_detailed_balance"): 0.5000326873189515,
    ("hypergrid", "modified_subtrajectory_balance"): 0.9328981754931625,
    ("hypergrid", "forward_looking_detailed_balance"): 0.5679101394991557,
    ("hypergrid", "forward_looking_subtrajectory_balance"): 1.2289969759648698,
    ("hypergrid", "flow_matching"): 1.0413783590349466,
    ("hypergrid", "relative_trajectory_balance"): 5.662936371468081,
    ("hypergrid", "relative_subtrajectory_balance"): 1.6657991833255175,
    ("hypergrid", "maximum_likelihood"): 3.528455746813236,
    ("hypergrid", "stochastic_detailed_balance"): 0.9909688660023616,
    ("dialogue", "trajectory_balance"): 11.068563385520399,
    ("dialogue", "log_partition_variance"): 0.053185612523453246,
    ("dialogue", "detailed_balance"): 2.517577266992249,
    ("dialogue", "subtrajectory_balance"): 6.796051667890827,
    ("dialogue", "forward_looking_detailed_balance"): 2.291977224838015,
    ("dialogue", "forward_looking_subtrajectory_balance"): 6.910980293399716,
    ("dialogue", "flow_matching"): 2.517577266992249,
    ("dialogue", "relative_trajectory_balance"): 0.05392186784227801,
    ("dialogue", "relative_subtrajectory_balance"): 0.7127482604301408,
    ("dialogue", "maximum_likelihood"): 3.331411548655788,
    ("dialogue", "expected_detailed_balance"): 2.517577266992249,
    ("dialogue", "stochastic_detailed_balance"): 2.517577266992249,
}
ON_TREES = {
    ("masked", "behaviour_cloning"): (1.508450984954834, 0.9754273891448975),
    ("masked", "trajectory_balance"): (13.399979591369629, 11.739818572998047),
    ("masked", "subtrajectory_balance"): (8.72121810913086, 7.826066493988037),
    ("masked", "afpo_anchored"): (5.552008152008057, 6.743337154388428),
    ("floor", "behaviour_cloning"): (1.508450984954834, 0.9754273891448975),
    ("floor", "trajectory_balance"): (13.171353340148926, 14.554372787475586),
    ("floor", "subtrajectory_balance"): (9.247200965881348, 9.048786163330078),
    ("floor", "afpo_anchored"): (7.461132049560547, 7.156319618225098),
    ("free", "behaviour_cloning"): (1.508450984954834, 0.9754273891448975),
    ("free", "trajectory_balance"): (23.63710594177246, 24.219268798828125),
    ("free", "subtrajectory_balance"): (15.561171531677246, 15.831859588623047),
    ("free", "afpo_anchored"): (9.303961753845215, 11.904735565185547),
}
# In an environment the world has no model that this loss could train.
TRAINS_A_MODEL_OF_THE_WORLD = {"dynamics_likelihood"}
# Their gradient is an estimate of that of the policy's objective: a step need not lower their value.
SURROGATES = {"policy_gradient", "reinforce", "ppo", "rloo", "grpo"}
STOPS, IS_A_TREE = {"stopping"}, {"chance"}


def environment_case(name: str) -> tuple[Environment, NetworkFlow, Trajectories]:
    torch.manual_seed(0)
    weights = torch.tensor([1.0, 0.3, 0.2, 0.1])
    here: Environment = (
        Hypergrid(2, 5)
        if name == "hypergrid"
        else MoveSequences(2, 3, 3, lambda states: (states.double() * weights).sum(1))
    )
    conditions = len(here.initial_states)
    trunk = MLPTrunk(here.num_features, width=16)
    estimator = NetworkFlow(here, trunk, backward="learned", log_z=TabularLogZ(conditions)).double()
    with torch.no_grad():
        estimator.log_z.values.copy_(torch.arange(conditions) + 0.5)  # type: ignore[union-attr]
    generator = torch.Generator().manual_seed(0)
    sampled = sample_forward(here, estimator.forward_policy, torch.arange(8) % conditions, generator=generator)
    return here, estimator, sampled


def direct(name: str, reading: Reading) -> torch.Tensor:
    """The call that a reader of the loss would write."""
    part = getattr(LOSSES[name], "reads", None)
    source = reading if part is None else reading[part]
    if name == "reference_kl":
        return LOSSES[name](reading["log_policy"], reading["log_reference_policy"], reading["tree"])
    names = set(signature(LOSSES[name]).parameters) & set(source)
    return LOSSES[name](**{each: source[each] for each in names})


def in_environment() -> list[tuple[str, str]]:
    found = []
    for place, lacks in (("hypergrid", IS_A_TREE), ("dialogue", STOPS)):
        names = set(read_trajectories(*environment_case(place))) - lacks
        found += [(place, name) for name in LOSSES if inputs_of(name) <= names]
    return [(place, name) for place, name in found if name not in TRAINS_A_MODEL_OF_THE_WORLD]


def test_no_loss_that_was_trained_in_environments_is_lost() -> None:
    assert set(IN_ENVIRONMENTS) <= set(in_environment())


@pytest.mark.parametrize(("place", "name"), IN_ENVIRONMENTS)
def test_values_in_environments_are_those_of_before(place: str, name: str) -> None:
    value = loss_on(name, read_trajectories(*environment_case(place)))
    assert float(value.detach()) == pytest.approx(IN_ENVIRONMENTS[place, name], rel=1e-12)


@pytest.mark.parametrize(("place", "name"), in_environment())
def test_every_loss_trains_an_estimator_in_an_environment(place: str, name: str) -> None:
    environment, estimator, sampled = environment_case(place)
    with torch.no_grad():
        # At the uniform policy the KL to it has no gradient.
        estimator.forward_head.bias += torch.arange(environment.num_actions)
    reading = read_trajectories(environment, estimator, sampled)
    assert loss_on(name, reading) == direct(name, reading)
    before = [parameter.detach().clone() for parameter in estimator.parameters()]
    optimiser = torch.optim.SGD(estimator.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    (done,) = train(
        environment, estimator, name, optimiser, steps=1, batch_size=8, per_condition=4, generator=generator
    )
    assert done.sampled is not None
    assert any(not torch.equal(old, new) for old, new in zip(before, estimator.parameters(), strict=True))
    after = loss_on(name, read_trajectories(environment, estimator, done.sampled))
    assert after.isfinite() if name in SURROGATES else after < done.loss


@pytest.mark.parametrize(("untried", "name"), ON_TREES)
def test_values_and_gradients_on_trees_are_those_of_before(untried: Any, name: str) -> None:
    chosen = method(name, untried=untried, decay=0.7, kl_weight=0.3, ranking_weight=0.5)
    collator = TreeCollator(
        [5, 9], 0.25, chosen.untried, floor=0.2, read_leaves=chosen.read_leaves, anchor_frontier=True
    )
    batch = collator.collate(encoded_trees([(0, 9), (1, 1), (2, 5), (3, 12)]))
    generator, reads = torch.Generator().manual_seed(0), len(batch.packed.node)
    raw = [torch.randn(reads, n, generator=generator) for n in (ACTIONS, ACTIONS, 1, ACTIONS)]
    for x in raw:
        x.requires_grad_()
    output = PolicyOutput(raw[0].log_softmax(-1), raw[1], raw[2][:, 0])
    reference = raw[3].detach().log_softmax(-1)
    loss = loss_on(chosen.loss, read_trees(output, replace(batch, log_reference=reference)))
    loss.backward()
    gradient = sum(x.grad.abs().sum() for x in raw if x.grad is not None)
    assert (float(loss.detach()), float(gradient)) == pytest.approx(ON_TREES[untried, name], rel=1e-6)


@pytest.mark.parametrize("name", [name for name in LOSSES if inputs_of(name) <= TREE_INPUTS])
def test_every_loss_trains_a_language_model_on_trees(
    tiny_llama: Callable[[int], LlamaForCausalLM], tmp_path: Path, name: str
) -> None:
    set_seed(0)
    policy = LanguageModelPolicy.with_lora(tiny_llama(0), range(10, 10 + ACTIONS), rank=4, alpha=8)
    with torch.no_grad():
        # At the reference the KL to it has no gradient.
        policy.policy_head.bias += torch.arange(ACTIONS) / 4
    settings: dict[str, Any] = {"save_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True}
    trees = [encoded_tree(0, 9), chance_tree(), encoded_tree(2, 6)]
    trainer = FlowTrainer(
        policy,
        FlowTrainingArguments(
            str(tmp_path), num_train_epochs=6.0, learning_rate=2e-3, per_device_train_batch_size=3, **settings
        ),
        name,
        [each.tree for each in trees],
        tokens=lambda tree: next(list(each.tokens) for each in trees if each.tree is tree),
        branch=[5, 9],
        temperature=0.25,
    )
    trainer.read_reference()
    (batch,) = trainer.collator(trainer.trees)["passes"]

    def reading() -> Reading:
        with torch.no_grad():
            return read_trees(policy.eval()(batch.packed), batch)

    found, before = loss_on(name, reading()), policy.policy_head.weight.detach().clone()
    assert found == direct(name, reading())
    trainer.train()
    if name in SURROGATES:
        assert not torch.equal(policy.policy_head.weight, before)
    else:
        assert loss_on(name, reading()) < found
