"""What can be predicted of people's moves without a language model: logistic regression on moves and words."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer

from gflowdial.dialogue.values import Dialogue


def logistic_regression(
    prefixes: Sequence[Dialogue], labels: NDArray[np.int64], *, words: bool = False, balanced: bool = False
) -> Any:
    """A fitted scikit-learn classifier of dialogue prefixes, with ``predict`` and ``predict_proba``.

    Its settings are scikit-learn's defaults: nothing is tuned.

    Args:
        prefixes: each ends before a turn of the agent.
        labels: the move of that turn, ``[prefixes]``.
        words: whether it sees the words of the last turn of each speaker, as TF-IDF of words and pairs of words, and
            the number of the turn beside the previous two moves.
        balanced: whether each move counts in inverse proportion to its frequency.

    Raises:
        ValueError: the labels are all alike.
    """
    features = [make_pipeline(FunctionTransformer(_moves_of), DictVectorizer())]
    if words:
        features.append(make_pipeline(FunctionTransformer(_numbers_of), DictVectorizer()))
        features += [
            make_pipeline(FunctionTransformer(read), TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True))
            for read in (_words_of_partner, _words_of_agent)
        ]
    weights = "balanced" if balanced else None
    classifier = make_pipeline(make_union(*features), LogisticRegression(class_weight=weights, max_iter=1000))
    return classifier.fit(list(prefixes), labels)


def _moves_of(prefixes: Sequence[Dialogue]) -> list[dict[str, str]]:
    rows = []
    for prefix in prefixes:
        before, last = ("none", "none", *prefix.moves)[-2:]
        rows.append({"last": last, "before": before, "both": f"{before}, {last}"})
    return rows


def _numbers_of(prefixes: Sequence[Dialogue]) -> list[dict[str, str]]:
    return [{"turn": str(min(prefix.agent_turns, 12))} for prefix in prefixes]


def _words_of_partner(prefixes: Sequence[Dialogue]) -> list[str]:
    return [_last_words(prefix, "partner") for prefix in prefixes]


def _words_of_agent(prefixes: Sequence[Dialogue]) -> list[str]:
    return [_last_words(prefix, "agent") for prefix in prefixes]


def _last_words(prefix: Dialogue, speaker: str) -> str:
    # A word that no dialogue says, so that silence is a feature and no vocabulary is empty.
    return next((turn.text for turn in reversed(prefix.turns) if turn.speaker == speaker), "nothingsaidyet")
