"""The crisis check: what must be heard, what may pass, and whom the reply names."""

import json

import pytest

from examples.aflow_esc.crisis import RESEARCH_NOTICE, CrisisCheck, recognise, research_notice
from examples.aflow_esc.crisis_patterns import PATTERNS
from examples.aflow_esc.simulated import all_phrases
from examples.aflow_esc.scenes import bundled_scenes

HEARD = {
    "suicide": (
        "I want to die.",
        "i wanna die",
        "I just want to end my life",
        "Some days I think about killing myself",
        "I'm feeling suicidal again",
        "They would all be better off without me.",
        "I don't want to live anymore",
        "I dont want to be here anymore",
        "I don't want to wake up tomorrow",
        "I can't go on",
        "There is no reason to live",
        "I wish I was dead",
        "I wish I had never been born",
        "I have thought about jumping off the bridge",
        "i want to kms",
        "My friend says he wants to kill himself",
        "This job is killing me and I want to end it all",
        "I'm not suicidal, but I would not mind dying; I wish I was dead",
        "I would never kill myself, at least I used to say that",
        "I don't want to die, but I see no other way",
        "I do not want to die. I see no way out.",
        "I wrote a goodbye letter to my kids",
        "What's the point of living",
        "I am tired of being alive",
        "I hope I never wake up",
        "I don't want to kill myself anymore",
    ),
    "self-harm": (
        "I've been cutting myself again",
        "I hurt myself when it gets too much",
        "I have the urge to cut",
        "Last night I burned my arm, self-harm is the only thing that helps",
        "I am starving myself",
        "I cut my wrists",
    ),
    "violence": (
        "I'm going to kill him",
        "I want to hurt my boss",
        "He said he will kill me",
        "My husband is going to kill me if I leave",
        "He has a gun",
        "Somebody is following me home",
        "I'm afraid I could hurt my baby",
        "She keeps threatening me with a knife",
    ),
    "abuse": (
        "My husband hits me",
        "my boyfriend choked me last night",
        "I was raped",
        "My uncle touched me when I was little",
        "My stepdad beats my sister",
        "He won't let me leave the house",
        "I am afraid of my partner",
        "We live with domestic violence",
        "I get beaten by my dad",
        "My partner is abusive",
    ),
    "medical emergency": (
        "I took all my pills",
        "I think I overdosed",
        "I have a terrible chest pain",
        "My mother collapsed and is not breathing",
        "The bleeding won't stop",
        "I can't breathe",
        "My son swallowed bleach",
    ),
}

PASSES = (
    "I am just killing time until the bus comes",
    "This job is killing me",
    "My feet are killing me",
    "I would kill for a coffee",
    "I nearly died laughing",
    "I'm dying to see the new film",
    "I was bored to death in that meeting",
    "I wanted to die of embarrassment",
    "I am not suicidal.",
    "I would never hurt myself",
    "He never hit me",
    "It suddenly hit me that she was gone",
    "My brother beat me at chess",
    "I cut myself shaving",
    "Shoot me an email",
    "I keep beating myself up over the exam",
    "My grandmother died last spring and I miss her",
    "I have a deadline on Friday",
    "I feel sad and lonely since the breakup",
    "I failed the exam that everyone else passed",
    "I broke my favourite cup",
    "I can breathe again, thank you",
    "I always wake up too early",
    "I work in a hospital and the night shifts are long",
    "We fought about money and he left",
    "I need to take my pills every morning, that is all",
)


@pytest.mark.parametrize(("category", "text"), [(c, text) for c, texts in HEARD.items() for text in texts])
def test_words_of_crisis_are_heard(category: str, text: str) -> None:
    found = recognise(text)
    assert found is not None
    assert found[0] == category


@pytest.mark.parametrize("text", PASSES)
def test_idioms_plain_denials_and_daily_talk_pass(text: str) -> None:
    assert recognise(text) is None


def test_typing_habits_do_not_matter() -> None:
    for text in ("I DON’T WANT TO LIVE", "i  dont want\nto live", "I don't want to live"):
        assert recognise(text) is not None


@pytest.mark.parametrize("doubt", ["but", "until now", "although", "sometimes I think I might"])
def test_a_denial_with_doubt_counts(doubt: str) -> None:
    assert recognise(f"I am not suicidal, {doubt}") is not None


def test_the_bundled_words_raise_no_alarm() -> None:
    words = [*(scene.opening for scene in bundled_scenes()), *all_phrases()]
    assert [text for text in words if recognise(text)] == []


@pytest.mark.parametrize(
    ("locale", "number"), [("US", "988"), ("GB", "116 123"), ("international", "https://findahelpline.com")]
)
def test_the_reply_names_the_locale_s_help_and_stays(locale: str, number: str) -> None:
    alert = CrisisCheck(locale)("I want to die")
    assert alert is not None
    assert number in alert.reply
    assert "I am not going away" in alert.reply


@pytest.mark.parametrize("locale", ["US", "GB", "international"])
@pytest.mark.parametrize("category", PATTERNS)
def test_every_category_has_emergency_services_and_more(locale: str, category: str) -> None:
    reply = CrisisCheck(locale).reply(category)
    assert reply.count("\n- ") >= 2
    assert "mergency" in reply


def test_resources_can_be_replaced(tmp_path) -> None:
    own = {"XX": {"emergency": "Call 000.", **{category: ["House line: 12345."] for category in PATTERNS}}}
    path = tmp_path / "own.json"
    path.write_text(json.dumps(own))
    assert "12345" in CrisisCheck("XX", path).reply("abuse")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1: broken JSON"),
        ("[]", "no resources for locale 'XX'"),
        ('{"XX": {"emergency": "Call 000."}}', "not empty for each of"),
        ('{"XX": 3}', "not empty for each of"),
    ],
)
def test_unusable_resources_are_refused(tmp_path, text: str, message: str) -> None:
    path = tmp_path / "own.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        CrisisCheck("XX", path)


def test_an_unknown_locale_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'ZZ'.*US, GB, international"):
        CrisisCheck("ZZ")


def test_the_notice_says_what_becomes_of_the_text(tmp_path) -> None:
    assert (
        research_notice()
        == f"{RESEARCH_NOTICE}\nThe conversation is not stored. What you write does not leave this machine."
    )
    told = research_notice(stored_in=tmp_path / "chat.jsonl", sent_to="example.org")
    assert "chat.jsonl" in told
    assert "sent to example.org" in told
