"""Answers that are compared: every layout to the same sequences, and rows of which nothing can be learned."""

import pytest
from datasets import Dataset
from tiny import CHATML, chat_tokenizer, prepared

from finetune.config.task import RowError
from finetune.data import preferences
from finetune.errors import UserError
from finetune.tasks.kto import KTO
from finetune.tasks.preference import Preference
from finetune.tasks.reward import Reward

ASKED = {"role": "user", "content": "hello"}
GOOD, BAD = ({"role": "assistant", "content": said} for said in ("hallo welt", "how are you"))
MESSAGES = {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]}
LAYOUTS = {
    "messages": MESSAGES,
    "texts": {"prompt": "hello", "chosen": "hallo welt", "rejected": "how are you"},
    "the prompt in the answers": {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    "a prompt that the answers repeat": {"prompt": "hello", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    "texts that repeat the text of the prompt": {
        "prompt": "hello",
        "chosen": "hello hallo welt",
        "rejected": "hello how are you",
    },
    "messages and texts": {"prompt": [ASKED], "chosen": "hallo welt", "rejected": "how are you"},
}


def encode(rows, task=None, tokenizer=None, max_length=256, columns=None):
    task, rows = task or Preference(), Dataset.from_list(rows)
    return prepared(task, rows, tokenizer or chat_tokenizer(), task.describe(rows, columns or {}), max_length)


def parts(row):
    """Each sequence as the text that is not trained and the text that is."""
    words, found, start = chat_tokenizer(), [], 0
    for length in row["seq_lengths"]:
        ids, labels = (row[name][start : start + length] for name in ("input_ids", "labels"))
        said = [token for token, label in zip(ids, labels) if label != -100]
        found.append((words.decode([t for t, label in zip(ids, labels) if label == -100]), words.decode(said)))
        start += length
    return found


@pytest.mark.parametrize("row", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_gives_the_same_sequences(row):
    (found,) = encode([row]).rows
    assert found == encode([MESSAGES]).rows[0]
    (prompt, chosen), (other, rejected) = parts(found)
    assert prompt == other == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n\n"
    assert (chosen, rejected) == ("hallo welt<|im_end|>", "how are you<|im_end|>")


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_column_of_system_is_said_before_the_prompt(layout):
    (found,) = encode([layout | {"system": "one two"}]).rows
    said = {"role": "system", "content": "one two"}
    assert found == encode([{"prompt": [said, ASKED], "chosen": [GOOD], "rejected": [BAD]}]).rows[0]
    singles = [{"prompt": "hello", "completion": "hallo welt", "label": is_wanted} for is_wanted in (True, False)]
    wanted = encode([each | {"system": "one two"} for each in singles], KTO()).rows
    assert [*wanted] == [*encode([each | {"prompt": [said, ASKED]} for each in singles], KTO()).rows]


def test_a_system_message_of_a_prompt_that_is_not_what_the_column_says_is_refused():
    told = {"role": "system", "content": "three"}
    found = encode([{**MESSAGES, "prompt": [told, ASKED], "system": "one two"}])
    assert found.account.dropped == {"the column of system and the system message of the row differ": [0]}


@pytest.mark.parametrize("column", ["system", "tools"])
def test_a_column_that_texts_as_they_are_have_no_place_for_is_refused(column):
    with pytest.raises(UserError, match=rf"column {column} is not read where chosen and rejected are texts"):
        encode([{"chosen": "hello how one", "rejected": "hello how two", column: "one"}])


def test_texts_with_the_prompt_in_them_are_compared_from_where_their_tokens_part():
    row = {"chosen": "hello how one two", "rejected": "hello how three"}
    (found,) = encode([row]).rows
    (prompt, chosen), (other, rejected) = parts(found)
    assert prompt == other == "hello how"
    assert (chosen, rejected) == (" one two<|im_end|>", " three<|im_end|>")


def test_turns_of_a_longer_answer_are_trained_without_those_of_the_user():
    more = {"role": "user", "content": "one"}
    (found,) = encode([{"prompt": [ASKED], "chosen": [GOOD, more, GOOD], "rejected": [BAD]}]).rows
    (prompt, chosen), _ = parts(found)
    assert chosen == "hallo welt<|im_end|>" * 2
    assert "one" in prompt


def test_tools_reach_the_template():
    template = "{% if tools %}{{ tools[0]['name'] + '\n' }}{% endif %}" + CHATML
    row = {**MESSAGES, "tools": [{"name": "four"}]}
    (found,) = encode([row], tokenizer=chat_tokenizer(template)).rows
    assert parts(found)[0][0].startswith("four\n")


EMPTY = {"role": "assistant", "content": " "}
DROPPED = {
    "the same answers": ({**MESSAGES, "rejected": [GOOD]}, preferences.SAME),
    "an empty answer": ({**MESSAGES, "chosen": [EMPTY]}, "chosen: a message of assistant has no content"),
    "no answer": ({**MESSAGES, "rejected": []}, "rejected is empty"),
    "an answer of the user": ({**MESSAGES, "chosen": [{**GOOD, "role": "tool"}]}, preferences.NO_PROMPT),
    "another prompt": (
        {"prompt": "bye", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
        "the prompt is not what chosen and rejected begin with",
    ),
    "no prompt in common": (
        {"chosen": [ASKED, GOOD], "rejected": [{**ASKED, "content": "one"}, BAD]},
        preferences.NO_PROMPT,
    ),
    "texts of two prompts": ({"chosen": "hello one", "rejected": "two three"}, preferences.NO_PROMPT),
    "texts that only begin alike, by their end": ({"chosen": "hello", "rejected": " "}, "rejected is empty"),
    "numbers": ({"prompt": 3, "chosen": [GOOD], "rejected": [BAD]}, "prompt: int where a text is expected"),
}


@pytest.mark.parametrize(("row", "reason"), DROPPED.values(), ids=DROPPED)
def test_a_row_of_which_nothing_can_be_learned_is_dropped_and_counted(row, reason):
    found = encode([row])
    assert found.account.dropped == {reason: [0]}
    assert not len(found.rows)


def test_a_missing_column_is_asked_for_and_unpaired_rows_are_named():
    with pytest.raises(UserError, match=r"no column for the rejected .*dataset.columns.rejected=NAME"):
        encode([{"prompt": "a", "chosen": "b"}])
    with pytest.raises(UserError, match=r"one completion with a label.*task=kto"):
        encode([{"prompt": "a", "completion": "b", "label": True}])
    with pytest.raises(UserError, match=r"dataset.columns.label is not read where rows have"):
        encode([{**MESSAGES, "label": True}], KTO(), columns={"label": "label"})


LONG = {**MESSAGES, "rejected": [{"role": "assistant", "content": "how are you " * 5}]}


def test_each_sequence_is_held_against_the_longest_allowed_and_not_their_sum():
    (whole,) = encode([MESSAGES]).rows
    longest = max(whole["seq_lengths"])
    assert sum(whole["seq_lengths"]) > longest
    assert not encode([MESSAGES], max_length=longest).account.dropped
    assert encode([MESSAGES], max_length=longest - 1).account.dropped


def test_a_long_row_loses_the_end_of_its_answers_or_the_beginning_of_its_prompt():
    whole = encode([LONG]).rows[0]
    limit = max(whole["seq_lengths"]) - 4
    end, prompt = (
        encode([LONG], Preference(overlong=how), max_length=limit) for how in ("truncate_end", "truncate_prompt")
    )
    assert end.account.notes["truncated"] == prompt.account.notes["truncated"] == 1
    (short, long), (cut_short, cut_long) = parts(end.rows[0]), parts(prompt.rows[0])
    assert short == parts(whole)[0]
    assert parts(whole)[1][1].startswith(long[1])
    assert "<|im_end|>" not in long[1]
    assert cut_short[0] == cut_long[0] != parts(whole)[0][0]
    assert (cut_short[1], cut_long[1]) == tuple(said for _, said in parts(whole))


def test_a_row_whose_prompt_fills_the_length_is_dropped_whichever_side_is_cut():
    for how, reason in (("truncate_end", "the prompt alone has"), ("truncate_prompt", "without its prompt")):
        (found,) = encode([MESSAGES], Preference(overlong=how), max_length=6).account.dropped
        assert reason in found


def test_a_pair_is_two_answers_of_both_kinds_and_a_single_answer_one():
    paired = encode([MESSAGES], KTO())
    single = encode(
        [{"prompt": "hello", "completion": "hallo welt", "label": label} for label in (True, False)], KTO()
    )
    assert paired.rows[0]["wanted"] == [1, 0]
    assert [row["wanted"] for row in single.rows] == [[1], [0]]
    for found in (paired, single):
        assert found.account.notes["desirable answers"] == found.account.notes["undesirable answers"] == 1


@pytest.mark.parametrize(("value", "meant"), [(True, 1), (0, 0), (1.0, 1), ("true", 1), ("False", 0), ("1", 1)])
def test_labels_are_read_as_people_write_them(value, meant):
    assert preferences.wanted(value, 0) == meant


@pytest.mark.parametrize("value", ["good", 2, -1, 0.5, ["true"]])
def test_a_label_that_says_neither_is_refused_by_its_row(value):
    with pytest.raises(UserError, match=r"row 7: label .* says neither"):
        preferences.wanted(value, 7)
    with pytest.raises(RowError, match="no label"):
        preferences.wanted(None, 7)


@pytest.mark.parametrize("value", ["1", None, True, float("nan"), float("inf")])
def test_a_margin_that_is_no_number_is_refused_by_its_row(value):
    with pytest.raises(UserError, match=r"row 7: margin .* is no number"):
        preferences.margin(value, 7)


def test_margins_are_kept_and_no_token_of_a_reward_has_a_label():
    (found,) = encode([{**MESSAGES, "margin": 0.5}], Reward()).rows
    assert found["margin"] == 0.5
    assert "labels" not in found
