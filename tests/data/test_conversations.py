"""Chats in every layout are read to the same messages; what cannot be read is dropped with its reason."""

import pytest
from datasets import Dataset

from finetune.config.task import RowError
from finetune.data import conversations
from finetune.errors import UserError
from finetune.tasks.sft import SFT

ASKED, ANSWERED = {"role": "user", "content": "hello"}, {"role": "assistant", "content": "hallo"}
SAME = {
    "messages": {"messages": [ASKED, ANSWERED]},
    "messages in conversations": {"conversations": [ASKED, ANSWERED]},
    "sharegpt": {"conversations": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hallo"}]},
    "sharegpt in messages": {"messages": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hallo"}]},
    "alpaca": {"instruction": "hello", "output": "hallo"},
    "alpaca without input": {"instruction": "hello", "input": "", "output": "hallo"},
    "prompt and completion": {"prompt": "hello", "completion": "hallo"},
    "prompt and completion as messages": {"prompt": [ASKED], "completion": [ANSWERED]},
    "prompt as messages": {"prompt": [ASKED], "completion": "hallo"},
}


def messages(row, **columns):
    """As a data set gives the row: Arrow has been through it."""
    (row,) = Dataset.from_list([row])
    layout, found = conversations.detect(list(row), columns)
    return conversations.read(row, layout, found)


@pytest.mark.parametrize("row", SAME.values(), ids=SAME)
def test_every_layout_is_read_to_the_same_messages(row):
    assert messages(row) == [ASKED, ANSWERED]


def test_the_input_of_alpaca_follows_its_instruction():
    (asked, _) = messages({"instruction": "Translate.", "input": "hello", "output": "hallo"})
    assert asked["content"] == "Translate.\n\nhello"


def test_named_columns_are_read():
    assert messages({"q": "hello", "a": "hallo"}, prompt="q", completion="a") == [ASKED, ANSWERED]


def test_named_columns_win_over_a_layout_that_is_there_too():
    row = {"messages": [{"role": "user", "content": "other"}], "q": "hello", "a": "hallo"}
    assert messages(row, prompt="q", completion="a") == [ASKED, ANSWERED]


def test_a_named_column_of_turns_is_read_by_the_keys_of_its_turns():
    turns = [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hallo"}]
    assert messages({"chat": turns}, messages="chat") == [ASKED, ANSWERED]


def test_a_layout_of_messages_wins_over_text():
    assert conversations.detect(["text", "messages"], {}) == ("messages", {"messages": "messages"})


def test_text_alone_is_the_layout_of_text():
    assert conversations.detect(["id", "text"], {}) == ("text", {"text": "text"})


def test_roles_of_sharegpt_become_those_of_messages():
    turns = [{"from": name, "value": "x"} for name in ("system", "human", "function_call", "observation", "gpt")]
    roles = [message["role"] for message in messages({"conversations": turns})]
    assert roles == ["system", "user", "assistant", "tool", "assistant"]


def test_nulls_that_arrow_fills_in_are_removed_at_every_depth():
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    other = {"type": "function", "function": {"name": "say", "arguments": {"text": "x"}}}
    rows = Dataset.from_list(
        [
            {"messages": [ASKED, {"role": "assistant", "content": "", "tool_calls": [call]}]},
            {"messages": [ASKED, {"role": "assistant", "content": "", "tool_calls": [other]}]},
            {"messages": [ASKED, ANSWERED]},
        ]
    )
    read = [conversations.read(row, "messages", {"messages": "messages"}) for row in rows]
    assert read == [
        [ASKED, {"role": "assistant", "content": "", "tool_calls": [call]}],
        [ASKED, {"role": "assistant", "content": "", "tool_calls": [other]}],
        [ASKED, ANSWERED],
    ]


def test_turns_of_both_kinds_in_one_column_are_read():
    rows = Dataset.from_list(
        [
            {"messages": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hallo"}]},
            {"messages": [ASKED, ANSWERED]},
        ]
    )
    assert [conversations.read(row, "messages", {"messages": "messages"}) for row in rows] == [[ASKED, ANSWERED]] * 2


SAID = {"role": "system", "content": "Be brief."}
BEFORE = [["one", "eins"], ["two", "zwei"]]
EARLIER = [{"role": role, "content": said} for pair in BEFORE for role, said in zip(("user", "assistant"), pair)]
OF_PAIRS = {name: row for name, row in SAME.items() if not {"messages", "conversations"} & set(row)}


@pytest.mark.parametrize("row", SAME.values(), ids=SAME)
def test_a_column_of_system_is_the_first_message(row):
    assert messages(row | {"system": "Be brief."}) == [SAID, ASKED, ANSWERED]


@pytest.mark.parametrize("said", ["", "  \n", None], ids=["empty", "blank", "null"])
@pytest.mark.parametrize("row", SAME.values(), ids=SAME)
def test_a_column_of_system_that_says_nothing_is_no_message(row, said):
    assert messages(row | {"system": said}) == [ASKED, ANSWERED]


def test_a_system_message_that_is_in_the_column_too_is_there_once():
    assert messages({"messages": [SAID, ASKED, ANSWERED], "system": "Be brief."}) == [SAID, ASKED, ANSWERED]
    assert messages({"messages": [SAID, ASKED, ANSWERED], "system": ""}) == [SAID, ASKED, ANSWERED]


@pytest.mark.parametrize("row", OF_PAIRS.values(), ids=OF_PAIRS)
def test_a_column_of_history_holds_the_turns_before(row):
    assert messages(row | {"history": BEFORE}) == [*EARLIER, ASKED, ANSWERED]
    assert messages(row | {"history": BEFORE, "system": "Be brief."}) == [SAID, *EARLIER, ASKED, ANSWERED]
    assert messages(row | {"history": []}) == messages(row | {"history": None}) == [ASKED, ANSWERED]


def test_history_follows_the_system_message_of_a_prompt():
    assert messages({"prompt": [SAID, ASKED], "completion": "hallo", "history": BEFORE[:1]}) == [
        SAID, *EARLIER[:2], ASKED, ANSWERED
    ]  # fmt: skip


def test_named_columns_of_system_and_history_are_read():
    row = {"q": "hello", "a": "hallo", "persona": "Be brief.", "past": BEFORE}
    found = messages(row, prompt="q", completion="a", system="persona", history="past")
    assert found == [SAID, *EARLIER, ASKED, ANSWERED]


def test_every_role_of_a_layout_can_be_named():
    roles = {role for layout in conversations.LAYOUTS.values() for role in (*layout.needs, *layout.optional)}
    assert roles == set(SFT.roles)


def test_only_what_the_column_of_the_answer_holds_is_the_answer():
    row = {"instruction": "hello", "output": "hallo", "system": "Be brief.", "history": BEFORE}
    layout, columns = conversations.detect(list(row), {})
    assert conversations.first_answer(row, layout, columns) == 6


@pytest.mark.parametrize("asked", ["instruction", "prompt"])
@pytest.mark.parametrize(("role", "count"), [("system", 3), ("history", 4), ("tools", 2)])
def test_made_up_rows_are_read_as_their_columns_say(asked, role, count):
    columns = {asked: "q", role: "x"}
    (row,) = Dataset.from_list(conversations.example(columns))
    layout, found = conversations.detect(list(row), columns)
    assert len(conversations.read(row, layout, found)) == count
    assert conversations.tools(row, found) is None


BAD = {
    "two system messages": ({"messages": [SAID, ASKED], "system": "Be long."}, "column of system .* differ"),
    "a developer beside a system": (
        {"messages": [{"role": "developer", "content": "x"}, ASKED], "system": "Be long."},
        "column of system .* differ",
    ),
    "a system that is a number": ({"messages": [ASKED], "system": 7}, "int where a text is expected"),
    "a history of texts": ({"prompt": "x", "completion": "y", "history": ["x"]}, "history is not a list of pairs"),
    "a history that is a text": ({"prompt": "x", "completion": "y", "history": "x"}, "history is not a list of pairs"),
    "a history of threes": ({"prompt": "x", "completion": "y", "history": [["x"] * 3]}, "history is not a list of"),
    "a history without an answer": (
        {"prompt": "x", "completion": "y", "history": [["x", None]]},
        "a message of assistant has no content",
    ),
    "an unknown role": ({"messages": [{"role": "wizard", "content": "x"}]}, "unknown role 'wizard', expected one of"),
    "no role": ({"messages": [{"content": "x"}]}, "unknown role None"),
    "empty content": ({"messages": [{"role": "user", "content": ""}]}, "a message of user has no content"),
    "no content": ({"messages": [{"role": "user", "content": None}]}, "a message of user has no content"),
    "an empty list": ({"messages": []}, "no messages"),
    "nothing": ({"messages": None}, "no messages"),
    "a text": ({"messages": "hello"}, "not a list of messages"),
    "a list of texts": ({"messages": ["hello"]}, "not a list of messages"),
    "content that is a number": ({"messages": [{"role": "user", "content": 7}]}, "int where a text is expected"),
    "an empty completion": ({"prompt": "x", "completion": ""}, "a message of assistant has no content"),
    "a missing completion": ({"prompt": "x", "completion": None}, "a message of assistant has no content"),
    "a completion of no messages": ({"prompt": "x", "completion": []}, "no messages"),
    "a completion that is a number": ({"prompt": "x", "completion": 7}, "int where a text is expected"),
    "no instruction": ({"instruction": None, "output": "x"}, "a message of user has no content"),
    "an instruction that is a number": ({"instruction": 7, "output": "x"}, "int where a text is expected"),
}


@pytest.mark.parametrize(("row", "reason"), BAD.values(), ids=BAD)
def test_a_row_that_is_not_what_its_layout_says_is_dropped(row, reason):
    layout, columns = conversations.detect(list(row), {})
    with pytest.raises(RowError, match=reason):
        conversations.read(row, layout, columns)


@pytest.mark.parametrize("value", ["", "  \n", None, 7])
def test_a_text_that_says_nothing_is_dropped(value):
    with pytest.raises(RowError, match="no text"):
        conversations.text({"body": value}, {"text": "body"})


def test_columns_that_fit_no_layout_are_named_with_the_layouts():
    with pytest.raises(UserError, match=r"columns question, answer\. Layouts .*prompt_completion: prompt"):
        conversations.detect(["question", "answer"], {})


def test_a_named_column_that_is_missing_is_answered_with_the_nearest():
    expected = "dataset.columns.prompt=questoin: the columns are question, answer. Did you mean question?"
    with pytest.raises(UserError) as refused:
        conversations.detect(["question", "answer"], {"prompt": "questoin", "completion": "answer"})
    assert str(refused.value) == expected


def test_named_roles_of_two_layouts_are_refused():
    with pytest.raises(UserError, match=r"with dataset\.columns prompt, output"):
        conversations.detect(["a", "b"], {"prompt": "a", "output": "b"})


QUESTIONS = {
    "messages": ({"messages": [ASKED]}, {}),
    "messages that end with the answer": ({"messages": [ASKED, ANSWERED]}, {}),
    "a prompt": ({"prompt": "hello"}, {}),
    "a named prompt": ({"q": "hello"}, {"prompt": "q", "completion": "a"}),
    "a named prompt with its answer": ({"q": "hello", "a": "hallo"}, {"prompt": "q", "completion": "a"}),
    "the usual column in place of the named one": ({"messages": [ASKED]}, {"prompt": "q", "completion": "a"}),
    "an instruction": ({"instruction": "hello"}, {"instruction": "instruction", "output": "output"}),
    "messages in place of named columns, one of them the system": (
        {"messages": [ASKED], "system": ""},
        {"prompt": "q", "completion": "a", "system": "system"},
    ),
}


@pytest.mark.parametrize(("row", "columns"), QUESTIONS.values(), ids=QUESTIONS)
def test_a_row_asks_what_comes_before_its_answer(row, columns):
    assert conversations.question(row, columns) == [ASKED]


def test_what_a_row_asks_begins_with_its_system_and_its_history():
    columns = {"instruction": "q", "output": "output", "system": "persona", "history": "history"}
    row = {"q": "hello", "persona": "Be brief.", "history": BEFORE}
    assert conversations.question(row, columns) == [SAID, *EARLIER, ASKED]
    assert conversations.question({"q": "hello"}, columns) == [ASKED]


def test_a_row_with_an_answer_alone_asks_nothing():
    with pytest.raises(RowError, match="nothing is asked"):
        conversations.question({"messages": [ANSWERED]}, {})
