"""Error rates of transcripts: the arithmetic, and a normalization that is fair in all languages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from higgs_audio_trainer.voice.error_rates import error_rates, normalized

TEXTS = st.text(alphabet="aAbß é'-.,ＣŁ你好สวั\u00ad\n", max_size=12) | st.text(max_size=12)


def distance(one, other):
    """Return the least number of insertions, deletions and substitutions, by the definition."""
    row = list(range(len(other) + 1))
    for count, item in enumerate(one, 1):
        above, row = row, [count]
        for place, another in enumerate(other):
            row.append(min(above[place] + (item != another), above[place + 1] + 1, row[place] + 1))
    return row[-1]


@given(TEXTS, TEXTS)
def test_the_rates_are_edits_over_the_length_of_the_text(text, transcript):
    """Of characters and of words of the normalized texts; None for a text without letters."""
    expected, heard = normalized(text), normalized(transcript)
    rates = error_rates(text, transcript)
    if not expected:
        assert rates == (None, None)
        return
    assert rates.cer == pytest.approx(distance(expected, heard) / len(expected))
    words = expected.split(" ")
    assert rates.wer == pytest.approx(distance(words, heard.split()) / len(words))


@given(TEXTS)
def test_normalization_comes_to_an_end(text):
    """A normalized text stays as it is, in one line of words with single spaces."""
    once = normalized(text)
    assert normalized(once) == once
    assert once == " ".join(once.split())


SAME = [
    ("Hello, world!", "hello world"),
    ("“¿Qué tal?” — ¡Bien!", "qué tal bien"),
    ("L’été, l'hiver", "l'été l’hiver"),
    ("Straße", "STRASSE"),
    ("Ｃａｆｅ\u0301", "CAFÉ"),
    ("Well-known", "well known"),
    ("你好，世界。", "你好 世界"),
    ("こんにちは、 世界！", "こんにちは世界"),
    ("สวัสดี ครับ", "สวัสดีครับ"),
    ("안녕하세요, 세계!", "안녕하세요 세계"),
    ("\u200fשלום, עולם!", "שלום עולם"),
    ("Schiff\u00adfahrt", "Schifffahrt"),
    ("one\ntwo\u00a0three", "one two three"),
]


@pytest.mark.parametrize(("text", "transcript"), SAME)
def test_spelling_that_nobody_hears_is_no_error(text, transcript):
    """Case, punctuation, compatibility forms, invisible characters, and spaces where a script has none."""
    assert error_rates(text, transcript) == (0, 0)


DIFFERENT = [("schon", "schön"), ("हिन्दी", "हन्द"), ("كتب", "كُتُب"), ("나 무", "나무"), ("C", "C++"), ("5", "five")]


@pytest.mark.parametrize(("text", "transcript"), DIFFERENT)
def test_what_is_heard_is_an_error(text, transcript):
    """Accents and vowel signs distinguish words. Symbols and numbers are compared as they are written."""
    assert error_rates(text, transcript).cer > 0


def test_nothing_heard_is_all_wrong_and_repetitions_are_more_than_all():
    """The rates are 1 without a transcript, and exceed 1 by insertions."""
    assert error_rates("Good day.", "") == error_rates("Good day.", " ... ") == (1, 1)
    assert error_rates("oh", "oh oh oh").wer == 2
