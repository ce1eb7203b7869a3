"""Places of answers in contexts, and windows of tokens: proved on characters, with every row accounted for."""

from itertools import pairwise

import numpy as np
import pytest
from datasets import Dataset
from tiny import bert_tokenizer, prepared

from finetune.config.task import RowError
from finetune.data import answers
from finetune.data.answers import FOUND, NONE, NOT_THERE, UNCLEAR, Answered
from finetune.data.windows import SHORTENED, TOO_LONG, UNEVEN, Decoding, Window, Windows
from finetune.errors import UserError
from finetune.tasks.question_answering import QuestionAnswering

CONTEXT = "the cat is not the dog"


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"answers": {"text": ["a", "b"], "answer_start": [1, 2]}}, [("a", 1), ("b", 2)]),
        ({"answers": [{"text": "a", "answer_start": 1}]}, [("a", 1)]),
        ({"answers": "a", "starts": 1}, [("a", 1)]),
        ({"answers": "a", "starts": 1.0}, [("a", 1)]),
        ({"answers": ["a", "b"], "starts": [1, 2]}, [("a", 1), ("b", 2)]),
        ({"answers": "a"}, [("a", None)]),
        ({"answers": {"text": ["a"]}}, [("a", None)]),
        ({"answers": "a", "starts": -1}, [("a", None)]),
        ({"answers": {"text": [], "answer_start": []}}, []),
        ({"answers": {"text": ["", "b"], "answer_start": [0, 2]}}, [("b", 2)]),
        ({"answers": ""}, []),
        ({"answers": None, "starts": float("nan")}, []),
    ],
)
def test_answers_are_read_from_every_layout_that_data_sets_use(row, found):
    assert answers.said(row["answers"], row.get("starts")) == found


@pytest.mark.parametrize(
    ("given", "starts", "reason"),
    [
        (7, 0, "7 is not a text"),
        ({"text": [["a"]], "answer_start": [0]}, None, r"\['a'\] is not a text"),
        ({"text": ["a"], "answer_start": ["0"]}, None, "'0' is not the number of a character"),
        ("a", 0.5, "0.5 is not the number"),
        ("a", True, "True is not the number"),
        ({"text": ["a", "b"], "answer_start": [0]}, None, "2 answers, and 1 places"),
    ],
)
def test_what_is_no_answer_is_refused(given, starts, reason):
    with pytest.raises(UserError, match=reason):
        answers.said(given, starts)


@pytest.mark.parametrize(
    ("given", "place", "notes"),
    [
        ([("cat", 4)], (4, 7), ()),
        ([("the", 15)], (15, 18), ()),
        ([(" cat ", 3)], (4, 7), ()),
        ([("dog", 4)], (19, 22), (FOUND,)),
        ([("dog", None)], (19, 22), (FOUND,)),
        ([("cow", 0), ("cat", 4)], (4, 7), ()),
        ([("cat", 0), ("dog", 19)], (19, 22), ()),
        ([], None, (NONE,)),
    ],
)
def test_an_answer_is_where_it_is_said_to_be_or_where_its_text_occurs_once(given, place, notes):
    found = answers.placed("?", CONTEXT, given)
    assert (found.place, found.notes) == (place, notes)


@pytest.mark.parametrize(
    ("given", "reason"), [(("the", 1), UNCLEAR), (("the", None), UNCLEAR), (("cow", 4), NOT_THERE)]
)
def test_an_answer_whose_place_cannot_be_told_drops_its_row(given, reason):
    with pytest.raises(RowError, match=reason):
        answers.placed("?", CONTEXT, [given])


# Windows


def windows(max_length=12, stride=3):
    return Windows(bert_tokenizer(512), max_length, stride)


def long_row(words=40, at=17):
    text = [f"{'abcdefgh'[n % 8]}" for n in range(words)]
    text[at] = "dog"
    context = " ".join(text)
    return Answered("cat", context, (context.index("dog"), context.index("dog") + 3), ())


def test_windows_share_the_stride_and_together_hold_the_whole_context():
    row = long_row()
    ((found, is_shortened),) = windows().of([row.question], [row.context])
    assert not is_shortened
    assert max(len(window.columns["input_ids"]) for window in found) == 12
    for before, after in pairwise(found):
        assert before.offsets[-3:] == after.offsets[:3]
    assert {place for window in found for place in window.offsets} == {
        (2 * at + 2 * (at > 17), 2 * at + 1 + 2 * (at >= 17)) for at in range(40)
    }


@pytest.mark.parametrize("at", [0, 8, 9, 17, 39])
def test_every_window_marks_the_answer_or_the_token_for_none(at):
    row, words = long_row(at=at), bert_tokenizer(512)
    (found,) = windows().labelled([row])
    texts = []
    for columns in found:
        marked = [token for token, label in zip(columns["input_ids"], columns["labels"]) if label != -100]
        texts.append(words.decode(marked))
    assert set(texts) <= {"dog", "[CLS]"}
    assert "dog" in texts
    held = sum("dog" in words.decode(columns["input_ids"]) for columns in found)
    assert texts.count("dog") == held


def test_an_answer_that_ends_within_a_token_is_trained_with_the_whole_token_and_counted():
    (found,) = windows().labelled([Answered("cat", CONTEXT, (4, 6), ())])
    assert UNEVEN in found[0]["notes"]
    assert sum(label != -100 for label in found[0]["labels"]) == 1


def test_a_question_that_leaves_no_room_is_shortened_and_counted():
    (found,) = windows().labelled([Answered("cat " * 30, CONTEXT, (4, 7), ())])
    assert SHORTENED in found[0]["notes"]
    assert max(len(columns["input_ids"]) for columns in found) == 12


def test_a_stride_that_leaves_no_room_is_refused():
    with pytest.raises(UserError, match=r"task\.stride=9 leaves no room"):
        windows(stride=9)


def rows(*contexts):
    """Rows about dogs, by their contexts."""
    return Dataset.from_list([{"question": "cat", "context": text, "answer": "dog"} for text in contexts])


def read(data, **options):
    columns = {"question": "question", "context": "context", "answers": "answer"}
    return prepared(QuestionAnswering(**options), data, bert_tokenizer(512), {"columns": columns}, 12)


def test_a_row_of_several_windows_is_one_row_of_the_account():
    found = read(rows(long_row().context, "the dog", "no animal", long_row(60).context), stride=3)
    assert found.account.read == 4
    assert found.account.dropped == {NOT_THERE: [2]}
    numbers = found.rows.shards[0].numbers.tolist()
    assert set(numbers) == {0, 1, 3}
    assert found.account.notes["windows"] == len(numbers) == len(found.rows)
    assert found.account.notes[FOUND] == 3


def test_an_answer_longer_than_all_windows_drops_its_row_alone():
    texts = ("the dog", "a b c d e f g h " * 4, "it")
    whole = Dataset.from_list([{"question": "cat", "context": text, "answer": text} for text in texts])
    assert read(whole, stride=3).account.dropped == {TOO_LONG: [1]}


# Decoding


def window(tokens=6, first=2):
    return Window({"input_ids": [0] * (tokens + first + 1)}, first, [(2 * at, 2 * at + 1) for at in range(tokens)], 0)


TEXT = "a b c d e f"


def logits(seed=0, tokens=9):
    return np.random.default_rng(seed).normal(size=(tokens, 2)).astype(np.float32)


@pytest.mark.parametrize("longest", [1, 3, 30])
@pytest.mark.parametrize("seed", range(4))
def test_the_likeliest_answer_is_the_best_of_all_that_are_allowed(seed, longest):
    own = logits(seed)
    pairs = [(a, b) for a in range(6) for b in range(a, min(6, a + longest))]
    first, last = max(pairs, key=lambda pair: own[2 + pair[0], 0] + own[2 + pair[1], 1])
    found = Decoding(longest, 20, None).answer(TEXT, [window()], [own])
    assert (found["start"], found["end"]) == (2 * first, 2 * last + 1)
    assert found["answer"] == TEXT[found["start"] : found["end"]]


def test_confidence_is_a_share_among_those_weighed_and_windows_that_overlap_count_once():
    own = np.zeros((9, 2), np.float32)
    alone = Decoding(1, 20, None).answer(TEXT, [window()], [own])
    twice = Decoding(1, 20, None).answer(TEXT, [window(), window()], [own, own])
    assert alone["confidence"] == twice["confidence"] == round(1 / 6, 4)
    assert Decoding(1, 2, None).answer(TEXT, [window()], [own])["confidence"] == 0.5


@pytest.mark.parametrize(("null", "threshold", "answer"), [(3, 0, ""), (3, 5, "b"), (3, None, "b"), (-1, 0, "b")])
def test_none_is_answered_where_it_is_likelier_by_more_than_the_threshold(null, threshold, answer):
    own = np.full((9, 2), -5, np.float32)
    own[3], own[0] = 0, null / 2
    found = Decoding(30, 20, threshold).answer(TEXT, [window()], [own])
    assert found["answer"] == answer
    assert found["null_score_diff"] == null
    assert found["start"] == (2 if answer else None)


def test_none_is_as_likely_as_the_window_that_is_surest_of_an_answer_says():
    sure, unsure = np.full((9, 2), -5, np.float32), np.full((9, 2), -5, np.float32)
    sure[3], sure[0], unsure[0] = 2, -4, 4
    assert Decoding(30, 20, 0.0).answer(TEXT, [window(), window()], [unsure, sure])["answer"] == "b"


def test_a_context_without_tokens_has_no_answer():
    found = Decoding(30, 20, None).answer("", [window(0)], [logits()])
    assert (found["answer"], found["confidence"], found["null_score_diff"]) == ("", 1.0, None)
