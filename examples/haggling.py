"""Haggling over a price as a dialogue task: ``gflowdial run --task haggling:TASK --config haggling.yaml``.

A seller talks with a buyer who hides a reserve price and a mood. The return is the share of the possible
profit that the seller gets, 0 without a deal. Nothing is left to chance, so every talk can be played through and the
exact flow is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

import numpy as np

from gflowdial.dialogue import Criterion, Dialogue, Inventory, Move, Reply, Roles, Scene, Task, Template
from gflowdial.dialogue.canned import CannedAgent, UniformPrior
from gflowdial.dialogue.scenes import drawn

# The rules of the world.


@dataclass(frozen=True)
class Sale(Scene):
    """What is sold: its list price, its cost to the seller, and the reserve price and mood that the buyer hides."""

    item: str
    price: int
    cost: int
    reserve: int
    mood: int


class Talk(NamedTuple):
    """Where a talk is: the seller's price, the buyer's offer (0: none yet), the mood, and how it stands."""

    price: int
    offer: int
    mood: int
    status: str = "continues"


PHRASES = {
    "Ask": "What would you pay?",
    "Praise": "It is in lovely shape, look at it.",
    "Hold firm": "That is my price.",
    "Lower": "I can come down a little.",
    "Add an extra": "I will add something to it.",
    "Accept": "Agreed, it is yours.",
}


def after(sale: Sale, talk: Talk, move: str, before: Sequence[str]) -> Talk:
    """The talk after one more move of the seller; ``before`` are the moves so far."""
    price, offer, mood, _ = talk
    step = sale.price // 10
    if move == "Accept":
        return Talk(offer, offer, mood, "deal")
    if move == "Ask":
        offer = max(offer, sale.reserve - (4 - mood) * step)
        mood -= "Ask" in before
    if move == "Praise":
        mood += 1 if "Praise" not in before else -1
    if move == "Hold firm":
        offer, mood = offer + step * (offer > 0), mood - 1
    if move == "Lower":
        price, mood = price - step, mood + (before[-1:] == ("Hold firm",))
    if move == "Add an extra":
        mood += 2 if "Add an extra" not in before else 0
    mood, offer = min(mood, 3), min(offer, sale.reserve, price)
    if mood < 0:
        return Talk(price, offer, 0, "no deal")
    willing = price <= sale.reserve - (3 - mood) * step // 2
    return Talk(price, offer, mood, "deal" if willing else "continues")


FEELINGS = ("I do not like this.", "Hm.", "I see.", "I like it.")


def opened(item: str, price: int, reserve: int, mood: int) -> Sale:
    """A sale with the buyer's first words; ``reserve`` is in percent of the price."""
    words = f"{FEELINGS[mood]} I thought of {price * (reserve - 20) // 100} for the {item}."
    return Sale(f"{item}-{reserve}-{mood}", words, item, price, price // 2, price * reserve // 100, mood)


THINGS = {"bike": 100, "desk": 120, "lamp": 40, "guitar": 200, "camera": 160, "tent": 80}
LOOKS = ("new", "old", "worn", "clean", "small", "large", "rare", "plain")
MORE_THINGS = ("table", "sofa", "radio", "piano", "clock", "mirror", "stove", "chair", "carpet", "drone")
ITEMS = [f"{look} {thing}" for look, thing in product(LOOKS, (*THINGS, *MORE_THINGS))]
SALES = [*product(ITEMS, range(40, 240, 20), range(80, 110, 5), (1, 2, 3))]


def generate(count: int) -> list[Sale]:
    """Things of many looks, each at many prices."""
    return [replace(opened(*sale), id="-".join(map(str, sale))) for sale in drawn(SALES, count)]


def answer(talk: Talk, before: Talk) -> str:
    """What the buyer says; the mood shows, the reserve price does not."""
    if talk.status != "continues":
        return "Good, I take it." if talk.status == "deal" else "No, thank you. Goodbye."
    feeling = FEELINGS[talk.mood]
    return f"{feeling} I could pay {talk.offer}." if talk.offer != before.offer else feeling


def profit(sale: Scene, talk: Talk, moves: Sequence[str]) -> float:
    """The share of the greatest profit: the price less cost and extras over the reserve price less cost; 0 without a
    deal."""
    if talk.status != "deal" or not isinstance(sale, Sale):
        return 0.0
    extras = moves.count("Add an extra") * (sale.price // 20)
    return float(np.clip((talk.price - sale.cost - extras) / (sale.reserve - sale.cost), 0, 1))


# The task. --8<-- [start:task]

MOVES = Inventory("haggling", tuple(Move(name, phrase) for name, phrase in PHRASES.items()))


def scenes() -> list[Sale]:
    """Six things, each with three reserve prices and three moods."""
    return [opened(*thing, reserve, mood) for thing, reserve, mood in product(THINGS.items(), (85, 95, 105), (1, 2, 3))]


class World(CannedAgent):
    """The seller's phrases, the buyer's answers and the judge, all from the moves of a dialogue."""

    def talks(self, dialogue: Dialogue) -> list[Talk]:
        """Where the talk was after each of the seller's moves, the beginning first."""
        sale, moves = dialogue.scene, self.moves_of(dialogue)
        assert isinstance(sale, Sale)
        found = [Talk(sale.price, 0, sale.mood)]
        for number, move in enumerate(moves):
            found.append(after(sale, found[-1], move, moves[:number]))
        return found

    def respond(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        """The buyer's answers."""
        ends = [self.talks(dialogue)[-2:] for dialogue in dialogues]
        return [Reply(answer(talk, before), talk.status) for before, talk in ends]

    def score(self, dialogues: Sequence[Dialogue]) -> np.ndarray:
        """The profit of each deal, 0 where there is none yet, ``[B, 1]``."""
        return np.array(
            [[profit(dialogue.scene, self.talks(dialogue)[-1], self.moves_of(dialogue))] for dialogue in dialogues]
        )


def simulated(inventory: Inventory) -> Roles:
    """The simulated seller and buyer."""
    world = World(PHRASES)
    return Roles(UniformPrior(len(inventory)), world, world, world, enumerable=True, canned=True)


def allowed(dialogue: Dialogue, inventory: Inventory) -> list[bool]:
    """No offer can be accepted before there is one."""
    return [name != "Accept" or "Ask" in dialogue.moves for name in inventory.names]


TASK = Task(
    name="haggling",
    inventories=(MOVES,),
    scenes=scenes,
    generate=generate,
    group=lambda scene: scene.id.partition("-")[0],
    scene=Sale,
    roles={"simulated": simulated},
    criteria=(Criterion("profit", 0.0, 1.0),),
    agent="Seller",
    partner="Buyer",
    ends={"deal": "deal", "no deal": "no deal"},
    trajectory_return=lambda rewards, _: sum(rewards),
    allowed=allowed,
    template=Template(opening="A seller and a buyer talk about a {scene.item} for {scene.price}.", move="\nMove:"),
)
