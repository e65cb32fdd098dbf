"""Loading annotated dialogues: the three forms, faults by place, the real files' counts, labels in one inventory."""

import json
from pathlib import Path

import pytest

from examples.aflow_esc.corpora import load_corpus, load_for, relabel
from examples.aflow_esc.scenes import SupportScene
from examples.aflow_esc.strategies import AFLOW, ESCONV, EXTES, TO_AFLOW
from gflowdial.dialogue.corpus import CorpusError
from gflowdial.dialogue.moves import UnknownMoveError
from gflowdial.dialogue.values import Turn

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "esconv"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the development data is not at {SHARED}")

ABOUT = {"situation": "a move", "emotion_type": "sadness", "problem_type": "loneliness"}
LINES = {
    **ABOUT,
    "dialog": [
        {"speaker": "sys", "text": "Hello!", "strategy": "Other"},
        {"speaker": "usr", "text": " I am  alone. "},
        {"speaker": "usr", "text": "Really."},
        {"speaker": "sys", "text": "Since when?", "strategy": "questions"},
        {"speaker": "sys", "text": "I was, too.", "strategy": "Self-disclosure"},
        {"speaker": "usr", "text": "Since May."},
    ],
}


def esconv(seeker: str = "seeker", supporter: str = "supporter") -> dict:
    messages = [
        {
            "speaker": seeker if m["speaker"] == "usr" else supporter,
            "annotation": {"strategy": m["strategy"]} if "strategy" in m else {"feedback": "3"},
            "content": m["text"],
        }
        for m in LINES["dialog"]
    ]
    return {**ABOUT, "dialog": messages}


def broken(**changes) -> dict:
    return {**LINES, **changes}


def message(**changes) -> dict:
    return broken(dialog=[{"speaker": "usr", "text": "Hi."}, {"speaker": "usr", "text": "Hi.", **changes}])


@pytest.fixture
def write(tmp_path):
    def write(*records, lines=False) -> Path:
        path = tmp_path / "talks.json"
        path.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(list(records)))
        return path

    return write


TURNS = (
    Turn("agent", "Hello!", "Others"),
    Turn("partner", "I am alone. Really."),
    Turn("agent", "Since when? I was, too.", "Question"),
    Turn("partner", "Since May."),
)


@pytest.mark.parametrize("as_lines", [True, False])
@pytest.mark.parametrize(
    ("record", "form"),
    [(LINES, "lines"), (esconv(), "esconv"), (esconv("speaker", "listener"), "esconv")],
)
def test_the_classic_forms_say_the_same(write, record, form, as_lines) -> None:
    corpus = load_corpus(write(record, record, lines=as_lines), strict=True)
    assert corpus.form == form
    assert [d.turns for d in corpus.dialogues] == [TURNS, TURNS]
    assert corpus.dialogues[1].scene == SupportScene(
        "talks-1", "I am alone. Really.", "a move", "sadness", "loneliness"
    )
    assert corpus.utterances == 12
    assert corpus.utterance_counts == {"Others": 2, "Question": 2, "Self-disclosure": 2}


def test_extes(write) -> None:
    content = [{"User": "I am alone."}, {"AI": "Tell me more.", "AI Strategy": "clarification"}]
    corpus = load_corpus(write({"scene": "moving", "description": "a move", "content": content}), strict=True)
    assert (corpus.form, corpus.inventory.name) == ("extes", "extes")
    assert corpus.dialogues[0].moves == ("Clarification",)
    assert corpus.dialogues[0].scene.problem == "moving"


def test_a_merged_turn_keeps_the_label_asked_for(write) -> None:
    last = load_corpus(write(LINES), merge_label="last").dialogues[0]
    assert last.moves == ("Others", "Self-disclosure")
    with pytest.raises(ValueError, match="'middle'"):
        load_corpus(write(LINES), merge_label="middle")


def test_relabelling_maps_and_masks(write) -> None:
    dialogue = load_corpus(write(LINES)).dialogues[0]
    assert relabel(dialogue, TO_AFLOW["esconv"]).moves == ("Clarification",)
    with pytest.raises(UnknownMoveError, match="'Others'"):
        relabel(dialogue, {"Question": "Clarification"})


@pytest.mark.parametrize(
    ("bad", "index", "reason"),
    [
        (3, (1,), "expected an object, not a number"),
        (broken(situation=None), (1,), "'situation' must be text, not null"),
        ({k: v for k, v in LINES.items() if k != "dialog"}, (1,), "'dialog' is missing"),
        (broken(dialog="hello"), (1,), "'dialog' must be a list, not text"),
        (broken(dialog=[]), (1,), "the seeker says nothing"),
        (broken(dialog=LINES["dialog"][:1]), (1,), "the seeker says nothing"),
        (broken(dialog=["hello"]), (1, 0), "expected an object, not text"),
        (message(text=7), (1, 1), "'text' must be text, not a number"),
        (message(text=" "), (1, 1), "'text' is empty"),
        (message(speaker="bot"), (1, 1), "unknown speaker 'bot'"),
        (message(speaker="sys", strategy=["Question"]), (1, 1), "'strategy' must be text, not a list"),
    ],
)
def test_a_malformed_record_is_reported_and_skipped(write, bad, index, reason) -> None:
    path = write(LINES, bad, LINES)
    corpus = load_corpus(path)
    assert [d.scene.id for d in corpus.dialogues] == ["talks-0", "talks-2"]
    (problem,) = corpus.problems
    assert (problem.file, problem.index) == (path, index)
    assert reason in problem.reason
    with pytest.raises(CorpusError, match=r"talks\.json, dialogue 1.*mend it"):
        load_corpus(path, strict=True)


@pytest.mark.parametrize(("label", "reason"), [("Hugging", "unknown move 'Hugging'"), (None, "no strategy label")])
def test_a_turn_with_an_unusable_label_stays_without_one(write, label, reason) -> None:
    path = write(LINES, message(speaker="sys", strategy=label))
    corpus = load_corpus(path)
    assert corpus.dialogues[1].turns[1] == Turn("agent", "Hi.")
    assert corpus.problems[0].index == (1, 1)
    assert reason in corpus.problems[0].reason
    with pytest.raises(CorpusError, match="dialogue 1, utterance 1"):
        load_corpus(path, strict=True)


def test_a_broken_line_is_one_fault_among_good_lines(tmp_path) -> None:
    path = tmp_path / "talks.txt"
    path.write_text(f'{json.dumps(LINES)}\n\n{{"dialog": [\n')
    corpus = load_corpus(path)
    assert len(corpus.dialogues) == 1
    assert str(corpus.problems[0]).startswith(f"{path}, dialogue 1: line 3 is broken JSON")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"[]", "no dialogues"),
        (b'[\n{"dialog": [}]', "line 2, column 13: broken JSON"),
        (b"\xff\xfe", "byte 0: not UTF-8"),
        (b"hello", "fits none of the known forms"),
        (b'[{"talk": []}]', "fits none of the known forms"),
        (b'[{"dialog": [{"text": "x", "speaker": "usr"}]}]', "none of its 1 dialogues is well-formed"),
    ],
)
def test_an_unusable_file_is_refused_in_one_message(tmp_path, text, message) -> None:
    path = tmp_path / "talks.json"
    path.write_bytes(text)
    with pytest.raises(CorpusError, match=message) as caught:
        load_corpus(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(CorpusError, match=r"none\.json: cannot be read"):
        load_corpus(tmp_path / "none.json")


@needs_shared
def test_the_validation_split_gives_the_published_counts() -> None:
    corpus = load_corpus(SHARED / "esc-valid.txt", strict=True)
    assert len(corpus.dialogues) == len({d.scene.id for d in corpus.dialogues}) == 130
    assert corpus.utterance_counts == {
        "Question": 360,
        "Others": 327,
        "Providing Suggestions": 312,
        "Affirmation and Reassurance": 269,
        "Self-disclosure": 161,
        "Reflection of feelings": 133,
        "Information": 117,
        "Restatement or Paraphrasing": 93,
    }


@needs_shared
def test_the_failed_conversations_give_the_published_counts() -> None:
    corpus = load_corpus(SHARED / "FailedESConv.json", strict=True)
    assert (len(corpus.dialogues), corpus.utterances) == (196, 5230)
    assert sum(corpus.utterance_counts.values()) == 2377
    # 54 dialogues lack the final rating.
    assert len(corpus.outcomes) == 196 - 54
    # Ratings fell by 29 points in sum.
    assert sum(corpus.outcomes.values()) == pytest.approx(142 / 2 + 29 / 8)
    assert all(a.speaker != b.speaker for d in corpus.dialogues for a, b in zip(d.turns, d.turns[1:], strict=False))


@pytest.mark.parametrize(("names", "parts"), [(("train", "valid", "test"), 3), (("train", "dev"), 2), (("test",), 1)])
def test_a_file_that_declares_its_parts(tmp_path, names: tuple[str, ...], parts: int) -> None:
    path = tmp_path / "talks.json"
    path.write_text(json.dumps({name: [LINES] * (number + 1) for number, name in enumerate(names)}, indent=1))
    corpus = load_corpus(path)
    called = {"train": "train", "valid": "validation", "dev": "validation", "test": "held_out"}
    expected = [called[name] for number, name in enumerate(names) for _ in range(number + 1)]
    assert [corpus.parts[dialogue.scene.id] for dialogue in corpus.dialogues] == expected
    assert len(set(expected)) == parts
    assert load_for(path, AFLOW, True).parts == corpus.parts


def test_a_part_that_is_no_list_is_named(tmp_path) -> None:
    path = tmp_path / "talks.json"
    path.write_text(json.dumps({"train": [LINES], "test": {}}))
    with pytest.raises(CorpusError, match="the part 'test' must be a list of dialogues"):
        load_corpus(path)


def test_one_dialogue_over_many_lines_is_a_file(tmp_path) -> None:
    path = tmp_path / "talks.json"
    path.write_text(json.dumps(LINES, indent=2))
    corpus = load_corpus(path)
    assert [d.turns for d in corpus.dialogues] == [TURNS]
    assert corpus.parts == corpus.outcomes == {}


@pytest.mark.parametrize(
    ("ratings", "outcome"),
    [
        ({"seeker": {"initial_emotion_intensity": "5", "final_emotion_intensity": "1"}}, 1.0),
        ({"seeker": {"initial_emotion_intensity": "4", "final_emotion_intensity": "2"}}, 0.75),
        ({"seeker": {"initial_emotion_intensity": 3, "final_emotion_intensity": 3}}, 0.5),
        ({"seeker": {"initial_emotion_intensity": "1", "final_emotion_intensity": "5"}}, 0.0),
        ({"seeker": {"initial_emotion_intensity": "5"}}, None),
        ({"seeker": {"initial_emotion_intensity": "7", "final_emotion_intensity": "1"}}, None),
        ({"seeker": [], "supporter": {}}, None),
        ("none", None),
    ],
)
def test_the_outcome_is_the_relief_that_the_seeker_rated(write, ratings, outcome: float | None) -> None:
    corpus = load_corpus(write({**esconv(), "survey_score": ratings}))
    assert corpus.outcomes.get("talks-0") == outcome


def test_labels_come_in_the_inventory_that_is_asked_for(write) -> None:
    path = write(LINES)
    assert load_for(path, ESCONV, True).dialogues == load_corpus(path).dialogues
    renamed = load_for(path, AFLOW, True)
    assert renamed.inventory == AFLOW
    assert renamed.dialogues == [relabel(d, TO_AFLOW["esconv"]) for d in load_corpus(path).dialogues]
    assert renamed.facts == {"merge_label": "first"}
    with pytest.raises(ValueError, match="the labels are esconv's; choose that or aflow, not extes"):
        load_for(path, EXTES, True)
