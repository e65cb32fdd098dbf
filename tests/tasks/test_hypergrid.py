"""The hypergrid on one screen: it learns, and prints how well."""

import pytest

from examples.hypergrid import main


@pytest.mark.slow
def test_it_reaches_a_low_total_variation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(steps=500) < 0.1
    assert capsys.readouterr().out.count("total variation") == 1


def test_a_few_steps_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 < main(steps=5) < 1
    assert capsys.readouterr().out.startswith("step 5: loss ")
