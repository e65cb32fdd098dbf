"""The bundled scenes are sound, and a faulty file is refused by name and place."""

import json
from collections import Counter

import pytest

from examples.aflow_esc.scenes import SupportScene, bundled_scenes, chat_scene
from examples.aflow_esc.simulated import tables
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
