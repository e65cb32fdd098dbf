"""The convergence benchmark leaves no loss out, and its targets are those of the exact flows."""

import re

import pytest
import torch

from benchmarks import convergence
from benchmarks.__main__ import main, suites
from benchmarks.convergence_cases import CASES, PLACES, TERMS, sharpened_by_length
from gflowdial.envs import Hypergrid, enumerate_states
from gflowdial.losses import LOSSES


def test_every_loss_is_trained_in_three_environments() -> None:
    trained = {name.split(", ")[0] for name in CASES}
    assert trained == set(LOSSES) - TERMS
    for name, case in CASES.items():
        assert len(set(case.places)) == 3, name
        assert set(case.places) <= set(PLACES), name


def test_the_sharpened_target_sums_to_one_and_is_the_power_it_says() -> None:
    environment = Hypergrid(2, 8)
    graph = enumerate_states(environment)
    log_target = sharpened_by_length(environment, graph)
    torch.testing.assert_close(log_target.exp().sum(), torch.tensor(1.0).double())
    length = graph.states[graph.dag.terminals].sum(1)  # the coordinates, and 1 for the stop
    log_z = graph.log_reward - log_target / length
    torch.testing.assert_close(log_z, log_z[:1].expand_as(log_z))


@pytest.mark.parametrize("name", ["trajectory_balance", "detailed_balance"])
def test_training_reaches_its_target(name: str) -> None:
    curve = convergence.run(name, "graph", seed=0)["total variation"]
    assert len(curve) == convergence.CHECKPOINTS + 1
    assert curve[0] > 0.1
    assert curve[-1] < PLACES["graph"].bar


def test_the_table_names_what_misses_its_bar() -> None:
    rows = [
        {"loss": name, "environment": place, "total variation": [1.0, after]}
        for name, case in CASES.items()
        for place in case.places
        for after in (0.0, 0.019, 0.03 if name == "flow_matching" else 0.0)
    ]
    bold = re.findall(r"^\| `(\w+)`.*\*\*0\.0300\*\*", convergence.markdown(rows), re.MULTILINE)
    assert bold == ["flow_matching"]
    assert convergence.markdown(rows).count("**0.0300**") == 2  # the hypergrid's bar is 0.05


def test_benchmarks_are_listed_and_unknown_ones_refused(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    assert "Does training with each loss reach" in capsys.readouterr().out
    assert "provenance" not in suites()
    with pytest.raises(SystemExit, match="no benchmark is called nothing"):
        main(["nothing"])
