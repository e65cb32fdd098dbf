"""What a policy is worth at several wishes, exactly, beside the exact flow of each."""

import numpy as np

from gflowdial.dialogue.outcomes import EnumeratedScene, Outcome, greedy_log_pf, policy_log_pf
from gflowdial.dialogue.policies import LearnedPolicy
from gflowdial.dialogue.rows import EXACT, PRIOR, UNIFORM, enumerated_scene, greedy, is_search
from gflowdial.dialogue.runs import Run
from gflowdial.dialogue.setting import Setting
from gflowdial.dialogue.studies.records import Record, evaluated, training_steps
from gflowdial.dialogue.wishes import Wish
from gflowdial.shapes import Float, Tensor


def temperatures_between(low: float, high: float, number: int = 5) -> list[float]:
    """Temperatures with equal ratios from ``low`` to ``high``."""
    return [float(f"{value:.3g}") for value in np.geomspace(low, high, number)]


def by_temperature(run: Run) -> list[Record]:
    """The policies of a run at several temperatures of its wishes, or at the one that they were trained for.

    The axis is ``temperature``. The exact flow is beside them at each; policies that learn nothing, which are the same
    at all, are as the run's evaluation has them.
    """
    setting = Setting.of(run)
    wishes = setting.wishes
    asked = temperatures_between(*wishes.temperatures) if wishes else [run.config.training.temperature]
    scenes, ids = setting.scenes.held_out, [scene.id for scene in setting.scenes.held_out]
    trees = [enumerated_scene(setting, scene).tree for scene in scenes]
    records = [r for r in evaluated(run) if r.row in (UNIFORM, PRIOR) or is_search(r.row)]
    at_each = {t: [EnumeratedScene.of(setting.environment, tree, t) for tree in trees] for t in asked}
    records += [
        Record(EXACT, {"temperature": t}, [[scene.outcome(scene.log_flow_pf) for scene in found]], ids)
        for t, found in at_each.items()
    ]
    for method in run.config.training.methods:
        policies = [setting.learned(run, seed, method) for seed in run.config.seeds]
        for t, found in at_each.items():
            tables = [[_table(setting, policy, scene, t) for scene in found] for policy in policies]
            sampled = [[s.outcome(table) for s, table in zip(found, row, strict=True)] for row in tables]
            best = [[_greedy(s, table) for s, table in zip(found, row, strict=True)] for row in tables]
            steps = training_steps(run, method)
            records.append(Record(method, {"temperature": t}, sampled, ids, steps))
            records.append(Record(greedy(method), {"temperature": t}, best, ids, steps))
    return records


def _table(
    setting: Setting, policy: LearnedPolicy, scene: EnumeratedScene, temperature: float
) -> Float[Tensor, " edges"]:
    asked = policy if policy.wishes is None else policy.at(Wish(temperature))
    return policy_log_pf(setting.environment, scene.tree, asked)


def _greedy(scene: EnumeratedScene, log_pf: Float[Tensor, " edges"]) -> Outcome:
    return scene.outcome(greedy_log_pf(scene.tree, log_pf))
