"""A task's roles played by a local causal language model; judgements are read off its logits, never parsed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gflowdial.dialogue.local.model import LocalModel, Prompt
from gflowdial.dialogue.moves import Inventory
from gflowdial.dialogue.roles import CONTINUES, Reply, Roles
from gflowdial.dialogue.task import PromptTemplate, Task
from gflowdial.dialogue.values import Dialogue


def local_roles(
    task: Task,
    inventory: Inventory,
    model: LocalModel,
    max_new_tokens: int = 32,
    draws: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
) -> Roles:
    """All roles of ``task`` on one model.

    Args:
        task: its prompts, speakers, criteria and statuses.
        inventory: the moves.
        model: who plays all of them.
        max_new_tokens: of a turn.
        draws: how many answers of the partner are drawn at ``temperature``; see `SampledPartner`.
        temperature: 0 gives a partner who always says what is most probable.
        seed: of the draws.
    """
    writing = {"temperature": temperature, "seed": seed, "whole_sentences": temperature > 0}
    partner = LocalPartner(task, model, max_new_tokens=max_new_tokens, **writing)
    return Roles(
        LocalPrior(task, inventory, model),
        LocalAgent(task, inventory, model, max_new_tokens=max_new_tokens),
        SampledPartner(partner, draws) if temperature else partner,
        LocalJudge(task, model),
    )


class _Role:
    def __init__(self, task: Task, model: LocalModel) -> None:
        self.task, self.model = task, model
        self.speakers = {"agent": task.agent, "partner": task.partner}

    def _prompt(self, template: PromptTemplate, dialogue: Dialogue, **fields: str) -> Prompt:
        lines = [f"{self.speakers[turn.speaker]}: {turn.text}" for turn in dialogue.turns]
        return _filled(template, scene=dialogue.scene, transcript="\n".join(lines), **self.speakers, **fields)


def _filled(template: PromptTemplate, **fields: Any) -> Prompt:
    # Only the template is formatted: braces in what was said stay as they are.
    return Prompt(template.system.format(**fields), template.user.format(**fields), template.answer.format(**fields))


class LocalPrior(_Role):
    """Which move the model would take: the probabilities of the moves' names behind the prompt's answer.

    One pass per batch. Where names share their first tokens, their probabilities are products along the names' trie.

    Raises:
        ValueError: the tokenizer joins a name to the answer in front of it.
    """

    def __init__(self, task: Task, inventory: Inventory, model: LocalModel) -> None:
        super().__init__(task, model)
        names = [f" {name}" for name in inventory.names]
        # Where one name begins another, the end of the line tells them apart.
        end = "\n" if any(a != b and b.startswith(a) for a in names for b in names) else ""
        prompt = task.prompts.prior
        self.names = model.probe([prompt.answer.format(**self.speakers)], [name + end for name in names])
        self.template = replace(prompt, answer="")
        self.moves = _listed([(move.name, move.description) for move in inventory.moves])

    def log_prior(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        """Normalised log-probabilities of the moves, ``[B, A]``."""
        prompts = [self._prompt(self.template, dialogue, moves=self.moves) for dialogue in dialogues]
        log_prior: NDArray[np.float64] = self.model.read(prompts, self.names)[:, 0]
        return log_prior


class LocalAgent(_Role):
    """Writes the agent's next words; ``writing`` are options of `LocalModel.write`.

    Siblings share what stands before the move in the prompt, so let the template name it last.
    """

    def __init__(self, task: Task, inventory: Inventory, model: LocalModel, **writing: Any) -> None:
        super().__init__(task, model)
        self.writing = writing
        self.descriptions = {move.name: move.description for move in inventory.moves}

    def reply(self, dialogues: Sequence[Dialogue], moves: Sequence[str]) -> list[str]:
        """The agent's words in each dialogue, following the named move."""
        prompts = [
            self._prompt(self.task.prompts.agent, dialogue, move=move, description=self.descriptions[move])
            for dialogue, move in zip(dialogues, moves, strict=True)
        ]
        return self.model.write(prompts, **self.writing)


class LocalPartner(_Role):
    """Writes the partner's answer, and reads off the answer whether the partner goes on.

    ``writing`` are options of `LocalModel.write`; where it samples, equal dialogues of a call get different answers.
    By default the model continues the conversation as a script that it writes itself: asked for the partner's next
    words in a chat, a small model goes on as the agent. Then the task's status question is asked of these words; see
    `StatusQuestion`. No prompt holds the name of a move.
    """

    def __init__(self, task: Task, model: LocalModel, **writing: Any) -> None:
        super().__init__(task, model)
        self.writing = writing
        if question := task.prompts.status:
            beginning = question.prompt.answer.format(**self.speakers)
            self.answers = model.probe([beginning], [f" {answer}" for answer in question.answers])

    def respond(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        """The partner's answers."""
        prompts = [self._prompt(self.task.prompts.partner, dialogue) for dialogue in dialogues]
        texts = self.model.write(prompts, **self.writing)
        return [Reply(text, status) for text, status in zip(texts, self.statuses(texts), strict=True)]

    def statuses(self, texts: Sequence[str]) -> list[str]:
        """What a partner who says these words does next."""
        question = self.task.prompts.status
        if question is None:
            return [CONTINUES] * len(texts)
        template = replace(question.prompt, answer="")
        asked = [_filled(template, text=text, **self.speakers) for text in texts]
        rows = np.exp(self.model.read(asked, self.answers)[:, 0])
        above = [(end, question.answers.index(answer), least) for end, (answer, least) in question.above.items()]
        return [next((end for end, column, least in above if row[column] > least), CONTINUES) for row in rows]


class SampledPartner:
    """A `StochasticPartner` who answers in ``draws`` ways: samples of a `LocalPartner`, each as probable.

    The same dialogue gets the same answers at every call, whatever the batch.

    Args:
        partner: whose words and statuses they are; its ``writing`` has a temperature.
        draws: samples per dialogue, K; the probability of each is 1/K.

    Raises:
        ValueError: ``draws`` is below 1.
    """

    def __init__(self, partner: LocalPartner, draws: int) -> None:
        if draws < 1:
            raise ValueError(f"draws is {draws}: give at least 1")
        self.partner, self.draws = partner, draws

    def replies(self, dialogues: Sequence[Dialogue]) -> list[Sequence[Reply]]:
        """The samples for each dialogue."""
        repeated = [dialogue for dialogue in dialogues for _ in range(self.draws)]
        drawn = [replace(reply, probability=1 / self.draws) for reply in self.partner.respond(repeated)]
        return [drawn[start : start + self.draws] for start in range(0, len(drawn), self.draws)]


class LocalJudge(_Role):
    """Scores the last exchange: Σ_k k·P(k) over the digits of a criterion's scale, behind the criterion's name.

    Criteria of one scale are branches of one packed pass per batch. Measure a model before trusting it: SmolLM2-135M
    puts clearly good exchanges only about 0.1 points above clearly bad ones on a scale from 1 to 5.

    Raises:
        ValueError: a criterion's scale has other numbers than 0 to 9; the tokenizer has no single token for a digit
            behind a criterion's name.
    """

    def __init__(self, task: Task, model: LocalModel) -> None:
        super().__init__(task, model)
        scales: dict[tuple[int, int], list[int]] = {}
        for column, criterion in enumerate(task.criteria):
            scale = int(criterion.low), int(criterion.high)
            if scale != (criterion.low, criterion.high) or not 0 <= scale[0] < scale[1] <= 9:
                raise ValueError(
                    f"criterion {criterion.name!r} goes from {criterion.low:g} to {criterion.high:g}: a language model "
                    "reads digits, so give whole numbers from 0 to 9"
                )
            scales.setdefault(scale, []).append(column)
        self.scales = []
        for (low, high), columns in scales.items():
            # The blank ends the beginning: it is a token of its own, and each digit is one.
            beginnings = [f"{task.criteria[column].name}: " for column in columns]
            probe = model.probe(beginnings, [str(digit) for digit in range(low, high + 1)])
            self.scales.append((columns, np.arange(low, high + 1.0), probe))
        lows, highs = zip(*scales, strict=True)
        listed = _listed([(criterion.name, criterion.question) for criterion in task.criteria])
        self.fields = {"criteria": listed, "low": str(min(lows)), "high": str(max(highs))}

    def score(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        """Expected scores of the last exchange, ``[B, C]`` in the order of the task's criteria."""
        prompts = [self._prompt(self.task.prompts.judge, dialogue, **self.fields) for dialogue in dialogues]
        scores = np.empty((len(dialogues), len(self.task.criteria)))
        for columns, digits, probe in self.scales:
            expected = np.exp(self.model.read(prompts, probe)) @ digits
            scores[:, columns] = expected.clip(digits[0], digits[-1])
        return scores


def _listed(items: Sequence[tuple[str, str]]) -> str:
    """One line per item, a name and what it means."""
    return "\n".join("- " + ": ".join(filter(None, item)) for item in items)
