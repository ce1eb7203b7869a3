"""Supervised fine-tuning: what a row trains, what becomes of long rows, and what the model answers."""

import json
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from tiny import CHATML, EOS, MARKED, NEWLINE, REWRITING, WORDS, chat_tokenizer, llama, prepared, trained_text
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune.config.task import RowError
from finetune.errors import UserError
from finetune.models import generate
from finetune.plan import limits
from finetune.tasks.sft import SFT

ASKED, ANSWERED = {"role": "user", "content": "hello"}, {"role": "assistant", "content": "hallo welt"}
CHAT = {"messages": [ASKED, ANSWERED]}


def chat(answer):
    return {"messages": [ASKED, {"role": "assistant", "content": answer}]}


def encode(rows, task=None, tokenizer=None, max_length=256, columns=None):
    task, rows = task or SFT(), Dataset.from_list(rows)
    return prepared(task, rows, tokenizer or chat_tokenizer(), task.describe(rows, columns or {}), max_length)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(llama())


@pytest.fixture(scope="module")
def model(tokenizer):
    loaded = AutoModelForCausalLM.from_pretrained(llama(), dtype=torch.float32).eval()
    SFT().configure(loaded, tokenizer, {"layout": "messages"})
    return loaded


LAYOUTS = {
    "messages": CHAT,
    "sharegpt": {"conversations": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hallo welt"}]},
    "alpaca": {"instruction": "hello", "input": "", "output": "hallo welt"},
    "prompt_completion": {"prompt": "hello", "completion": "hallo welt"},
}


@pytest.mark.parametrize(("layout", "row"), LAYOUTS.items(), ids=LAYOUTS)
def test_every_layout_trains_the_same(layout, row):
    assert SFT().describe(Dataset.from_list([row]), {})["layout"] == layout
    (found,) = encode([row]).rows
    assert found == encode([CHAT]).rows[0]
    assert trained_text(chat_tokenizer(), found["input_ids"], found["labels"]) == "hallo welt<|im_end|>"


def test_columns_are_named_by_the_user():
    rows = Dataset.from_list([{"q": "hello", "a": "hallo welt"}])
    facts = SFT().describe(rows, {"prompt": "q", "completion": "a"})
    assert facts == {"layout": "prompt_completion", "columns": {"prompt": "q", "completion": "a"}}
    assert encode(list(rows), columns={"prompt": "q", "completion": "a"}).rows[0] == encode([CHAT]).rows[0]


def test_every_token_of_plain_text_and_its_end_are_trained():
    (row,) = encode([{"text": "one two"}], tokenizer=chat_tokenizer(None, bos=True)).rows
    assert row["labels"] == row["input_ids"]
    assert chat_tokenizer().decode(row["labels"]) == "<s>one two<|im_end|>"


def test_the_account_counts_tokens_and_trained_tokens():
    encoded = encode([CHAT, chat("")])
    (row,) = encoded.rows
    trained = sum(label != -100 for label in row["labels"])
    assert encoded.account.notes == {"tokens": len(row["input_ids"]), "trained tokens": trained}
    assert encoded.account.dropped == {"a message of assistant has no content": [1]}


def test_a_bad_row_is_dropped_and_the_others_are_kept_as_they_are():
    tokenizer = chat_tokenizer()
    rows = [CHAT, chat("\n\nfive"), {"messages": [ANSWERED]}, chat("one")]
    encoded = encode(rows, tokenizer=tokenizer)
    trained = [trained_text(tokenizer, row["input_ids"], row["labels"]) for row in encoded.rows]
    assert trained == ["hallo welt<|im_end|>", "one<|im_end|>"]
    assert sorted(encoded.account.dropped.values()) == [[1], [2]]


def test_a_row_without_an_answer_is_dropped():
    assert encode([CHAT, {"messages": [ASKED]}]).account.dropped == {"nothing to train": [1]}


def test_overlong_rows_are_dropped_by_default():
    encoded = encode([CHAT, chat("hello " * 50)], max_length=40)
    assert encoded.account.dropped == {"longer than 40 tokens": [1]}


def test_a_truncated_row_is_the_beginning_of_the_whole_and_gets_no_false_end():
    whole = encode([chat("hello " * 50)]).rows[0]
    encoded = encode([chat("hello " * 50)], SFT(overlong="truncate_end"), max_length=40)
    (row,) = encoded.rows
    assert row == {name: values[:40] for name, values in whole.items()}
    assert row["labels"][-1] != chat_tokenizer().eos_token_id
    assert encoded.account.notes["truncated"] == 1


def test_a_truncated_text_gets_no_false_end():
    (row,) = encode([{"text": "hello " * 50}], SFT(overlong="truncate_end"), max_length=20).rows
    assert len(row["input_ids"]) == 20
    assert chat_tokenizer().eos_token_id not in row["input_ids"]


def test_an_answer_that_truncation_cuts_off_leaves_nothing_to_train():
    row = {"messages": [{"role": "user", "content": "hello " * 50}, ANSWERED]}
    encoded = encode([row, CHAT], SFT(overlong="truncate_end"), max_length=40)
    assert encoded.account.dropped == {"nothing to train": [0]}


def test_an_overlong_row_can_be_an_error_that_names_it():
    with pytest.raises(UserError, match="row 1 has"):
        encode([CHAT, chat("hello " * 50)], SFT(overlong="error"), max_length=40)


def test_a_row_whose_mask_cannot_be_proved_is_named():
    long = {"messages": [ASKED, ANSWERED, ASKED, ANSWERED]}
    with pytest.raises(UserError, match="row 2: the conversation up to an assistant turn is not a prefix"):
        encode([CHAT, {"messages": []}, long], tokenizer=chat_tokenizer(REWRITING))


@pytest.mark.parametrize("mask", ["assistant", "last_turn", "all"])
def test_a_template_without_an_end_of_turn_is_refused_whatever_is_trained(mask):
    with pytest.raises(UserError, match=r"^the chat template ends an assistant turn with"):
        encode([CHAT], SFT(mask=mask), chat_tokenizer(NEWLINE))


def test_chats_need_a_template():
    with pytest.raises(UserError, match="the tokenizer has no chat template"):
        encode([CHAT], tokenizer=chat_tokenizer(None))


def test_a_split_without_the_columns_of_train_is_refused():
    facts = SFT().describe(Dataset.from_list([CHAT]), {})
    with pytest.raises(UserError, match=r"messages: the columns are message. Did you mean message\?"):
        SFT().encoder(Dataset.from_list([{"message": [ASKED]}]), chat_tokenizer(), facts, 64)


@pytest.mark.parametrize(
    ("template", "facts", "expected"),
    [(CHATML, {"layout": "messages"}, "<|im_end|>"), (EOS, {"layout": "messages"}, "</s>"),
     (CHATML, {"layout": "text"}, "</s>")],
)  # fmt: skip
def test_generation_stops_at_what_was_trained_to_end(template, facts, expected):
    model = AutoModelForCausalLM.from_pretrained(llama())
    model.generation_config.eos_token_id = None
    tokenizer = chat_tokenizer(template, eos="</s>")
    SFT().configure(model, tokenizer, facts)
    assert tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id) == [expected]
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_the_stops_that_a_model_has_are_kept(tokenizer):
    model = AutoModelForCausalLM.from_pretrained(llama())
    model.generation_config.eos_token_id = 3
    SFT().configure(model, tokenizer, {"layout": "messages"})
    assert model.generation_config.eos_token_id == [3, tokenizer.eos_token_id]


def test_a_row_asks_what_comes_before_its_last_answer():
    row = {"messages": [ASKED, ANSWERED, {"role": "user", "content": "how"}, {"role": "assistant", "content": "so"}]}
    facts = {"layout": "messages", "columns": {"messages": "messages"}}
    assert SFT().question(row, facts) == (row["messages"][:3], "so")


def test_a_row_without_an_answer_is_no_question():
    with pytest.raises(RowError, match="no answer"):
        SFT().question({"messages": [ASKED]}, {"layout": "messages", "columns": {"messages": "messages"}})


def test_plain_text_is_no_question():
    with pytest.raises(UserError, match=r"evaluation\.generation\.rows=0"):
        SFT().question({"text": "one"}, {"layout": "text", "columns": {"text": "text"}})


def answers(model, tokenizer, inputs, **options):
    return list(SFT().predict(model, tokenizer, inputs, {"max_new_tokens": 12, **options}))


def test_a_prompt_is_answered_the_same_alone_and_beside_a_longer_one(model, tokenizer):
    short, long = "hello", "one two three four five six seven eight how are you hallo welt"
    together = answers(model, tokenizer, [short, long])
    assert together == answers(model, tokenizer, [short]) + answers(model, tokenizer, [long])
    assert together[0]["answer"] != together[1]["answer"]


def test_the_answer_is_what_greedy_search_without_a_cache_gives(model, tokenizer):
    text = tokenizer.apply_chat_template([ASKED], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    start = ids.shape[1]
    with torch.no_grad():
        while ids.shape[1] < start + 12 and ids[0, -1] != tokenizer.eos_token_id:
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    (found,) = answers(model, tokenizer, ["hello"])
    assert found["answer"] == tokenizer.decode(ids[0, start:], skip_special_tokens=True).strip()


def test_more_prompts_than_a_batch_are_answered_in_order(model, tokenizer):
    prompts = [f"{word} {word}" for word in WORDS[:10]]
    assert len(prompts) > generate.BATCH
    expected = [answers(model, tokenizer, [prompt])[0] for prompt in prompts]
    assert answers(model, tokenizer, prompts) == expected


def test_the_same_question_in_every_form_gets_the_same_answer(model, tokenizer):
    forms = ["hello", [ASKED], {"prompt": "hello"}, {"messages": [ASKED]}, {"messages": [ASKED, ANSWERED]}]
    columns = {"columns": {"prompt": "q", "completion": "a"}}
    found = answers(model, tokenizer, [*forms, {"q": "hello"}, {"q": "hello", "a": "x"}], **columns)
    assert [answer["input"] for answer in found][: len(forms)] == forms
    assert len({answer["answer"] for answer in found}) == 1


def test_an_answer_that_the_limit_cuts_off_is_marked(model, tokenizer):
    (found,) = answers(model, tokenizer, ["hello"], max_new_tokens=1)
    assert found["capped"]
    model.generation_config.eos_token_id = list(range(len(tokenizer)))
    try:
        assert not answers(model, tokenizer, ["hello"], max_new_tokens=1)[0]["capped"]
    finally:
        SFT().configure(model, tokenizer, {"layout": "messages"})
        model.generation_config.eos_token_id = [tokenizer.eos_token_id]


def test_a_bare_prompt_begins_as_the_texts_that_were_trained():
    tokenizer = chat_tokenizer(None, bos=True)
    trained = encode([{"text": "one two"}], tokenizer=tokenizer).rows[0]["input_ids"]
    assert generate._ids(tokenizer, "one two") == trained[:-1]


def test_a_model_of_plain_text_continues_a_text_though_its_tokenizer_has_a_template(model, tokenizer):
    (found,) = answers(model, tokenizer, ["one two"], columns={"text": "text"})
    (bare,) = generate.answers(model, tokenizer, ["one two"], {"max_new_tokens": 12})
    assert found["answer"] == bare.text
    assert found["answer"] != answers(model, tokenizer, ["one two"])[0]["answer"]


@pytest.mark.parametrize(
    ("item", "reason"),
    [("", "no content"), ({"x": 1}, "no chat layout"), ([], "no messages"), (7, "int where a text")],
)
def test_an_input_that_asks_nothing_is_named(model, tokenizer, item, reason):
    with pytest.raises(UserError, match=f"input 1: .*{reason}"):
        answers(model, tokenizer, ["hello", item])


def test_markers_and_prefixes_encode_the_same_rows():
    rows = [CHAT, {"messages": [ASKED, ANSWERED, ASKED, ANSWERED]}, chat("\n\nfive")]
    by_markers, by_prefixes = (encode(rows, tokenizer=chat_tokenizer(template)) for template in (MARKED, CHATML))
    assert list(by_markers.rows) == list(by_prefixes.rows)
    assert by_markers.account == by_prefixes.account


def test_completion_trains_what_its_column_holds_and_no_answer_of_the_prompt():
    tokenizer = chat_tokenizer()
    row = {"prompt": [ASKED, {"role": "assistant", "content": "one"}, ASKED], "completion": [ANSWERED]}
    for mask, expected in {
        "completion": "hallo welt<|im_end|>",
        "assistant": "one<|im_end|>hallo welt<|im_end|>",
    }.items():
        (found,) = encode([row], SFT(mask=mask), tokenizer).rows
        assert trained_text(tokenizer, found["input_ids"], found["labels"]) == expected


def test_a_turn_is_trained_by_the_field_that_the_recipe_names():
    tokenizer = chat_tokenizer()
    turns = [ASKED, {"role": "assistant", "content": "one", "train": False}, ASKED, ANSWERED | {"train": True}]
    (found,) = encode([{"messages": turns}], SFT(mask="per_turn", turn_weight="train"), tokenizer).rows
    assert trained_text(tokenizer, found["input_ids"], found["labels"]) == "hallo welt<|im_end|>"


TOOL = {"type": "function", "function": {"name": "add", "description": "one", "parameters": {}}}
TOOLED = "{% if tools %}{{ '<|im_start|>system\n' + tools | tojson + '<|im_end|>\n' }}{% endif %}" + CHATML


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL])], ids=["a list", "its text"])
def test_tools_of_a_row_are_rendered_trained_and_asked_with(tools):
    tokenizer = chat_tokenizer(TOOLED)
    row = {**CHAT, "tools": tools}
    (found,) = encode([row], tokenizer=tokenizer).rows
    assert '"add"' in tokenizer.decode(found["input_ids"])
    facts = SFT().describe(Dataset.from_list([row]), {})
    prompt, _ = SFT().question(row, facts)
    ids = generate._ids(tokenizer, prompt)
    assert found["input_ids"][: len(ids)] == ids
    assert SFT().rendered(row, facts, tokenizer)["text"] == tokenizer.decode(found["input_ids"])


def test_a_plan_fails_where_kept_rows_train_no_end_and_are_not_truncated():
    numbers = {"rows": 10, "rows with a trained end": 8, "rows without": [3, 7]}

    def ends(**account):
        return limits._ends(SimpleNamespace(report={"train": {"audit": numbers, **account}}), "train")

    with pytest.raises(UserError, match=r"train: 2 rows have no trained token that ends a turn .*task\.eos=none"):
        ends(kept=10, notes={"truncated": 1})
    assert ends(kept=10, notes={"truncated": 2}).startswith("8 of 10 rows")
