"""Which move is taken: every policy answers dialogues with log-probabilities over the inventory."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedModel

from gflowdial.dialogue.cards import write_card
from gflowdial.dialogue.encoding import DialogueEncoder, DialogueTexts
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState
from gflowdial.dialogue.local.loading import load_language_model
from gflowdial.dialogue.moves import Inventory, Move
from gflowdial.dialogue.roles import Prior
from gflowdial.dialogue.task import Template
from gflowdial.dialogue.values import Dialogue
from gflowdial.dialogue.wishes import Wish, Wishes
from gflowdial.estimators.language_model import LanguageModelPolicy, PolicyOutput
from gflowdial.estimators.packing import Attention, PackedPrefixes
from gflowdial.search import AnyEnvironment, SearchConfig, search, tree_seed

_SETTINGS = "dialogue.json"


@runtime_checkable
class DialoguePolicy(Protocol):
    """A policy over moves."""

    def log_policy(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        """Log-probabilities of the next move, ``[B, A]``; each dialogue ends with the partner.

        What it gives to forbidden moves does not matter: `DialogueEnvironment.restrict` takes them out.
        """


@dataclass(frozen=True)
class UniformPolicy:
    """Every move alike."""

    num_actions: int

    def log_policy(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        """See `DialoguePolicy`."""
        return np.full((len(dialogues), self.num_actions), -np.log(self.num_actions))


@dataclass(frozen=True)
class PriorPolicy:
    """The prior that the search starts from."""

    prior: Prior

    def log_policy(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        """See `DialoguePolicy`."""
        return self.prior.log_prior(dialogues)


@dataclass(frozen=True)
class GreedyPolicy:
    """Another policy's likeliest allowed move, the first of equal ones."""

    policy: DialoguePolicy
    environment: DialogueEnvironment

    def log_policy(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        """See `DialoguePolicy`; all mass is on one move."""
        log_policy = self.environment.restrict(self.policy.log_policy(dialogues), dialogues)
        return _one_move(log_policy.argmax(axis=1), log_policy.shape[1])


@dataclass(frozen=True)
class LearnedPolicy:
    """A trained language-model policy.

    Attributes:
        model: the policy.
        encoder: how it reads dialogues.
        reference: answer with its reference policy instead.
        facts: what is known of its training.
        wishes: what it was trained for, if its model depends on a condition.
        wish: what it is read at, one of ``wishes``.
    """

    model: LanguageModelPolicy
    encoder: DialogueEncoder
    reference: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    wishes: Wishes | None = None
    wish: Wish | None = None

    def at(self, wish: Wish) -> "LearnedPolicy":
        """The same policy, read at another wish.

        Raises:
            ValueError: it was not trained for the wish.
        """
        if self.wishes is None:
            raise ValueError("the policy was trained for one target alone: train it with the section `wishes`")
        self.wishes.check(wish)
        return replace(self, wish=wish)

    def save_pretrained(self, folder: Path, facts: Mapping[str, Any], *, with_base: bool) -> None:
        """Write a folder that `from_pretrained` loads anywhere.

        It holds the policy, its tokenizer, the inventory and the texts of its dialogues, what ``facts`` says of its
        training, and a model card.

        Args:
            folder: where to.
            facts: what JSON can hold: task, method, temperature, data, data_licence, safety, …
            with_base: whether the base model goes with it; otherwise the folder refers to it by name.
        """
        self.model.save_pretrained(folder, with_base=with_base)
        self.encoder.tokenizer.save_pretrained(folder)
        settings = {"format": 1, "facts": dict(facts), "max_tokens": self.encoder.max_tokens}
        if self.wishes is not None:
            settings["wishes"] = asdict(self.wishes)
        settings |= {"inventory": asdict(self.encoder.inventory), "texts": asdict(self.encoder.texts)}
        (folder / _SETTINGS).write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        write_card(folder, facts, self.encoder.inventory)

    @staticmethod
    def from_pretrained(
        folder: str | Path,
        language_model: PreTrainedModel | None = None,
        *,
        attention: Attention = "sdpa",
        device: torch.device | str | None = None,
        dtype: torch.dtype | Literal["auto"] = torch.float32,
    ) -> "LearnedPolicy":
        """The policy that `save_pretrained` wrote, ready to be read.

        Args:
            folder: where it was written.
            language_model: the base model; without it the one that the folder names or holds is loaded.
            attention: how the model attends along packed prefixes.
            device: where the policy goes; None: it stays where ``language_model`` is, on the CPU where one is loaded.
            dtype: in what precision it is loaded.

        Raises:
            FileNotFoundError: ``folder`` holds no policy on dialogues.
        """
        folder = Path(folder)
        if not (folder / _SETTINGS).is_file():
            raise FileNotFoundError(f"{folder} holds no policy on dialogues ({_SETTINGS} is missing): train one first")
        settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        if language_model is None and (base := settings["facts"].get("language_model")):
            language_model, _ = load_language_model(
                base, device=device or "cpu", dtype=str(dtype).removeprefix("torch.")
            )
        model = LanguageModelPolicy.from_pretrained(
            folder, language_model, attention=attention, device=device, dtype=dtype
        )
        moves = tuple(Move(m["name"], m["description"], tuple(m["synonyms"])) for m in settings["inventory"]["moves"])
        texts = settings["texts"]
        encoder = DialogueEncoder(
            AutoTokenizer.from_pretrained(folder),
            Inventory(settings["inventory"]["name"], moves),
            DialogueTexts(Template(**texts["template"]), texts["agent"], texts["partner"]),
            settings["max_tokens"],
        )
        made, facts = LearnedPolicy(model.eval(), encoder, facts=settings["facts"]), settings["facts"]
        if (kept := settings.get("wishes")) is None:
            return made
        return replace(made, wishes=Wishes.of_data(kept), wish=Wish(facts["temperature"]))

    @torch.no_grad()
    def log_policy(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        """See `DialoguePolicy`."""
        packed = self.encoder.pack(dialogues, self.model.continuations).to(self._device)
        log_policy = self.model.log_reference(packed) if self.reference else self._output(packed).log_policy
        return np.asarray(log_policy.double().log_softmax(-1).cpu().numpy())

    @torch.no_grad()
    def read(self, dialogue: Dialogue) -> PolicyOutput:
        """Policy and values at one dialogue."""
        packed = self.encoder.pack([dialogue], self.model.continuations).to(self._device)
        return self._output(packed)

    def _output(self, packed: PackedPrefixes) -> PolicyOutput:
        condition = None
        if self.wishes is not None and self.wish is not None:
            condition = self.wishes.vector(self.wish).to(self._device).expand(len(packed.node), -1)
        output: PolicyOutput = self.model(packed, condition)
        return output

    @property
    def _device(self) -> torch.device:
        return self.model.policy_head.weight.device


@dataclass(frozen=True)
class SearchPolicy:
    """MCTS at every turn; it takes the most visited move (as GDP-Zero does, arXiv 2305.13660)."""

    environment: AnyEnvironment[DialogueState]
    config: SearchConfig
    seed: int

    def log_policy(self, dialogues: Sequence[Dialogue]) -> NDArray[np.float64]:
        """See `DialoguePolicy`; all mass is on one move. A dialogue that comes again is searched anew."""
        asked: Counter[Dialogue] = Counter()
        seeds = []
        for dialogue in dialogues:
            seeds.append(tree_seed(self.seed, repr((dialogue.scene.id, dialogue.moves, asked[dialogue]))))
            asked[dialogue] += 1
        found = search(self.environment, [DialogueState(dialogue) for dialogue in dialogues], seeds, self.config)
        return _one_move(np.asarray(found.best_actions()), self.environment.num_actions)


def _one_move(actions: NDArray[np.int64], num_actions: int) -> NDArray[np.float64]:
    log_policy = np.full((len(actions), num_actions), -np.inf)
    log_policy[np.arange(len(actions)), actions] = 0.0
    return log_policy
