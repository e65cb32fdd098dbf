"""The studies of ``gflowdial study NAME``."""

import math
from collections.abc import Mapping
from typing import Any

from gflowdial.dialogue.config import RunConfig, WishesConfig
from gflowdial.dialogue.rows import PRIOR
from gflowdial.dialogue.studies.measures import by_stage, by_turn
from gflowdial.dialogue.studies.records import STEPS
from gflowdial.dialogue.studies.study import ENDS, Cell, Plot, Study
from gflowdial.dialogue.studies.wishes import by_temperature, temperatures_between
from gflowdial.training.methods import method, method_names

_NO_SEARCH: Mapping[str, Any] = {"evaluation.search_simulations": []}
"""Search at test time is the same beside every method: one cell plays it."""
_NOT_COMPARED = {
    *("afpo", "direct_preference"),
    *("ranking_hinge", "reference_kl", "released_flow_balance", "released_kl", "released_preference", "value_margin"),
}
"""Second names of methods (`afpo_anchored`, `dpo`), and terms of others that are no method by themselves."""
_WORTH = ("expected_return", "total_variation", "good_conversations", STEPS)


def _methods(config: RunConfig) -> list[Cell]:
    """Every method on the same search trees; those that need rollouts of the current policy get as many steps."""
    names = [name for name in method_names() if name not in _NOT_COMPARED]
    rolled = [name for name in names if method(name).on_policy]
    first, *others = [name for name in names if name not in rolled]
    rollouts = {"training.rollouts": config.training.rollouts or 4}
    return [
        Cell(first, {"training.methods": [first]}),
        *(Cell(name, {"training.methods": [name], **_NO_SEARCH}) for name in others),
        *(Cell(name, {"training.methods": [name], **rollouts, **_NO_SEARCH}, steps_of=first) for name in rolled),
    ]


def _ablations(_: RunConfig) -> list[Cell]:
    """AFlow's table 4: its method without one part at a time; the anchored form beside it."""
    full = {"training.methods": ["afpo_released_second", "afpo_anchored"]}
    # Uniform exploration alone: moves in the tree are drawn at random, values count nothing.
    at_random = {"search.kappa": 1e9}
    return [
        Cell("full", full),
        Cell("without-search", {**full, **at_random, **_NO_SEARCH}),
        Cell("without-flow-balance", {"training.methods": ["afpo_without_flow_balance"], **_NO_SEARCH}),
        Cell("without-process-supervision", {"training.methods": ["afpo_without_process_supervision"], **_NO_SEARCH}),
    ]


def _rounds(config: RunConfig) -> list[Cell]:
    """The same simulations and epochs in all, in more rounds."""
    simulations, epochs = config.search.model_dump()["simulations"], config.training.epochs
    return [
        Cell(
            f"rounds-{rounds}",
            {
                "training.rounds": rounds,
                "training.epochs": epochs / rounds,
                "search.simulations": max(1, simulations // rounds),
                **_NO_SEARCH,
            },
            {"rounds": rounds},
        )
        for rounds in (1, 2, 4)
    ]


def _sources(config: RunConfig) -> list[Cell]:
    """Trees of search alone, of the policy's own rollouts alone, and of both, at about equal environment steps."""
    simulations, epochs = config.search.model_dump()["simulations"], config.training.epochs
    # A simulation takes about half as many environment steps as a rollout, and each epoch rolls out once per scene.
    rollouts = simulations / (2 * epochs)
    grids = {"search": (simulations, 0.0), "both": (simulations // 2, rollouts / 2), "rollouts": (1, rollouts)}
    return [
        Cell(
            source,
            {
                "search.simulations": max(1, simulated),
                "training.rollouts": math.ceil(rolled),
                **({} if source == "search" else _NO_SEARCH),
            },
            {"source": source},
        )
        for source, (simulated, rolled) in grids.items()
    ]


def _scenes(config: RunConfig) -> list[Cell]:
    """More scenes, at two numbers of simulations; the held-out scenes are those of the same groups."""
    most, simulations = config.data.scenes or 256, config.search.model_dump()["simulations"]
    return [
        Cell(
            f"scenes-{scenes}-simulations-{each}",
            {"data.source": "generated", "data.scenes": scenes, "search.simulations": each, **_NO_SEARCH},
            {"scenes": scenes, "simulations": each},
        )
        for scenes in (max(2, most // 4), max(2, most // 2), most)
        for each in sorted({max(1, simulations // 4), simulations})
    ]


def _around(config: RunConfig) -> list[Cell]:
    """One search setting is changed at a time."""
    search, turns = config.search.model_dump(), config.roles.max_turns if config.roles else None
    grids = {
        "simulations": [max(1, search["simulations"] // 4), 4 * search["simulations"]],
        "max_depth": [1, 2, *([turns] if turns else [])],
        "rollout_length": [0, 1, search["rollout_length"] + 1],
    }
    return [
        Cell("base"),
        *(
            Cell(f"{key}-{value}", {f"search.{key}": value, **_NO_SEARCH})
            for key, values in grids.items()
            for value in sorted(set(values) - {search[key]})
        ),
    ]


def _budgets(config: RunConfig) -> list[Cell]:
    most = config.search.model_dump()["simulations"]
    return _on("search.simulations", sorted({most, max(1, most // 4), max(1, most // 16)}, reverse=True))


def _wishes(config: RunConfig) -> list[Cell]:
    """One policy for a range of temperatures, and policies trained for single ones of them, on the same trees."""
    own = config.training.temperature
    wished = config.wishes or WishesConfig(temperatures=(own / 5, 3 * own))
    # The ends are the grid's own numbers, so that rounding puts none outside of the range.
    grid = temperatures_between(*wished.temperatures)
    once = {**wished.model_dump(mode="json"), "temperatures": [grid[0], grid[-1]]}
    return [
        Cell("once", {"wishes": once}, {"trained": "once"}),
        *(
            Cell(
                f"for-{temperature:g}",
                {"wishes": None, "training.temperature": temperature, **_NO_SEARCH},
                {"trained": "for it alone"},
            )
            for temperature in grid
        ),
    ]


def _on(key: str, values: list[Any]) -> list[Cell]:
    """A cell for each value of a setting, which is the axis; search at test time is played in the first."""
    axis = key.rpartition(".")[2]
    once: list[Mapping[str, Any]] = [{}, *[_NO_SEARCH] * (len(values) - 1)]
    return [
        Cell(f"{axis}-{value}", {key: value, **rest}, {axis: value}) for value, rest in zip(values, once, strict=True)
    ]


STUDIES: Mapping[str, Study] = {
    "methods": Study(
        "Which training method earns most, and which comes nearest to the exact flow, at equal environment steps?",
        _methods,
        (*_WORTH[:2], "kl", "good_conversations", ENDS, "turns", "entropy", STEPS, "environment_steps"),
        Plot(("expected_return", "total_variation"), trade=("expected_return", "good_conversations")),
        reference="behaviour_cloning",
    ),
    "ablations": Study(
        "What is each part of AFlow worth: the flow balance, the search, the process supervision?",
        _ablations,
        (*_WORTH[:2], "entropy", "good_conversations", STEPS),
        Plot(("expected_return", "total_variation")),
        reference="afpo_released_second",
    ),
    "sensitivity": Study(
        "How much do the results change with the search's depth, rollout length and number of simulations?",
        _around,
        _WORTH,
        Plot(("expected_return", "total_variation")),
    ),
    "turns": Study(
        "What does each turn earn, and how much does the policy vary its moves in it?",
        lambda _: [Cell("base")],
        ("turn_reward", "turn_entropy", "reached"),
        Plot(("turn_reward", "turn_entropy"), x="turn"),
        reference=PRIOR,
        measure=by_turn,
        exact=True,
    ),
    "stages": Study(
        "In which stage of a conversation, early, middle or late, do a policy's decisions matter?",
        lambda _: [Cell("base")],
        ("expected_return", "total_variation"),
        Plot(("expected_return",), x="stage"),
        reference=PRIOR,
        measure=by_stage,
        exact=True,
    ),
    "scenes": Study(
        "How does the distance to the exact flow fall with more training scenes and more simulations?",
        _scenes,
        ("total_variation", "expected_return", "good_conversations", STEPS),
        Plot(("total_variation", "expected_return"), x="scenes", lines="simulations"),
    ),
    "rounds": Study(
        "Is it better to search once, or again with the policy learned so far as the prior, at equal simulations?",
        _rounds,
        _WORTH,
        Plot(("expected_return", "total_variation"), x="rounds"),
    ),
    "sources": Study(
        "Should the trees come from search, from rollouts of the policy in training, or from both, at equal steps?",
        _sources,
        (*_WORTH[:2], "good_conversations", STEPS),
        Plot(("expected_return", "total_variation")),
    ),
    "budget": Study(
        "How do return and distance to the exact flow depend on the environment steps of the search?",
        _budgets,
        _WORTH,
        Plot(("expected_return", "total_variation"), x=STEPS),
    ),
    "frontier": Study(
        "How does the temperature of the target trade return for different good conversations?",
        lambda _: _on("training.temperature", [0.1, 0.05, 0.2, 0.4]),
        ("expected_return", "good_conversations", "entropy", STEPS),
        Plot(("expected_return",), x="good_conversations"),
    ),
    "wishes": Study(
        "Does one policy, trained once for a range of temperatures, do what policies trained for each alone do?",
        _wishes,
        ("total_variation", "expected_return", "good_conversations", "entropy", STEPS),
        Plot(("expected_return", "total_variation"), x="good_conversations", lines="trained"),
        measure=by_temperature,
        exact=True,
    ),
}
"""By name."""
