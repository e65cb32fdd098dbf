"""The bundled scenes are sound, and a faulty file is refused by name and place."""

import json
from collections import Counter
from itertools import product

import pytest

from examples.aflow_esc.crisis import recognise
from examples.aflow_esc.scenes import OPENINGS, SupportScene, bundled_scenes, chat_scene, generated_scenes
from examples.aflow_esc.simulated import tables
from examples.aflow_esc.task import TASK
from gflowdial.dialogue.config import ComputeConfig
from gflowdial.dialogue.language_models import load_tokenizer
from gflowdial.dialogue.model_config import TinyModelConfig
from gflowdial.dialogue.scenes import SceneError, load_scenes

GOOD = {"id": "a", "situation": "s", "emotion": "e", "problem": "p", "opening": "Hello there"}


def test_the_bundled_scenes_are_varied_and_short() -> None:
    scenes = bundled_scenes()
    assert len(scenes) >= 60
    assert len({scene.id for scene in scenes}) == len({scene.opening for scene in scenes}) == len(scenes)
    assert all(6 <= len(scene.opening.split()) <= 16 for scene in scenes)


def test_the_simulated_world_knows_every_emotion_and_problem() -> None:
    problems = Counter(scene.problem for scene in bundled_scenes())
    assert set(problems) == set(tables.PROBLEMS) == set(tables.QUIRKS)
    assert min(problems.values()) >= 5
    assert {scene.emotion for scene in bundled_scenes()} == set(tables.EMOTIONS)


def test_generated_scenes_have_all_pairs_in_turn() -> None:
    pairs = [(scene.emotion, scene.problem) for scene in generated_scenes(130)]
    assert set(pairs[:64]) == set(product(tables.EMOTIONS, tables.PROBLEMS))
    assert pairs[64:128] == pairs[:64]
    assert pairs[128:] == pairs[:2]
    for start in range(0, 64, 8):
        assert all(len(set(names)) == 8 for names in zip(*pairs[start : start + 8], strict=True))


def test_generated_openings_are_all_different_and_show_emotion_and_problem() -> None:
    phrases = json.loads(OPENINGS.read_text())
    scenes = generated_scenes(64 * 20)
    assert len({scene.opening for scene in scenes}) == len(scenes)
    for scene in scenes:
        (event, told), *others = [each for each in phrases["problems"][scene.problem] if each[0] in scene.opening]
        (feeling,) = [said for said in phrases["emotions"][scene.emotion]["says"] if said in scene.opening]
        assert not others
        assert {f"{event} {feeling}", f"{feeling} {event}"} > {scene.opening}
        assert told in scene.situation
        assert any(f", and {mood}." in scene.situation for mood in phrases["emotions"][scene.emotion]["is"])
        assert scene.id.startswith(f"{scene.emotion}-{scene.problem.replace(' ', '-')}-")


def test_every_phrase_is_of_one_emotion_or_problem() -> None:
    phrases = json.loads(OPENINGS.read_text())
    said = [said for mood in phrases["emotions"].values() for said in (*mood["says"], *mood["is"])]
    told = [text for events in phrases["problems"].values() for event in events for text in event]
    assert len({*said, *told}) == len(said) + len(told)
    assert {tuple(phrases["emotions"]), tuple(phrases["problems"])} == {tuple(tables.EMOTIONS), tuple(tables.PROBLEMS)}
    assert all(text[0].isupper() and text[-1] in ".?" and len(text.split()) <= 12 for text in told[::2])


def test_generated_openings_have_no_unknown_tokens_and_raise_no_alarm() -> None:
    assert TASK.tokenizer is not None
    tokenizer = load_tokenizer(TinyModelConfig(kind="tiny"), TASK.tokenizer, ComputeConfig())
    phrases = json.loads(OPENINGS.read_text())
    openings = [event for events in phrases["problems"].values() for event, _ in events]
    for opening in openings + [said for mood in phrases["emotions"].values() for said in mood["says"]]:
        tokens = tokenizer(opening, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(tokens) == opening
        assert tokenizer.unk_token_id is None or tokenizer.unk_token_id not in tokens
        assert recognise(opening) is None, opening


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"id": "a",\n]', "line 2: broken JSON"),
        ("[]", "at least one scene"),
        ("{}", "at least one scene"),
        ("[3]", "scene 0: expected an object"),
        (json.dumps([{**GOOD, "mood": "x"}]), "scene 0: missing or unknown fields \\['mood'\\]"),
        (json.dumps([{"id": "a"}]), "scene 0: missing or unknown fields"),
        (json.dumps([{**GOOD, "opening": 3}]), "field 'opening' must be text"),
        (json.dumps([{**GOOD, "opening": " "}]), "field 'opening' must be text"),
        (json.dumps([GOOD, GOOD]), "scene 1: id 'a' is taken by scene 0"),
    ],
)
def test_a_faulty_file_is_refused(tmp_path, text: str, message: str) -> None:
    path = tmp_path / "scenes.json"
    path.write_text(text)
    with pytest.raises(SceneError, match=message):
        load_scenes(path, SupportScene)


def test_of_a_chat_nothing_is_known_but_the_first_words() -> None:
    assert chat_scene("I am lost.") == SupportScene("chat", "I am lost.", "I am lost.", "unknown", "unknown")
