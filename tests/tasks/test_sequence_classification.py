"""Sequence classification: labels and their ids, texts and pairs, and what the model answers."""

import json
import random

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from tiny import bert, bert_tokenizer, prepared
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from finetune.data.classes import MULTI, REGRESSION, SINGLE
from finetune.errors import UserError
from finetune.tasks.sequence_classification import SequenceClassification

TEXTS = ["good film", "bad film", "the cat", "very good", "not bad", "one two"]


def data(labels, feature=None, texts=None):
    texts = texts or [TEXTS[at % len(TEXTS)] for at in range(len(labels))]
    features = Features({"text": Value("string"), "label": feature}) if feature else None
    return Dataset.from_dict({"text": texts, "label": labels}, features=features)


def describe(rows, task=None, **columns):
    return (task or SequenceClassification()).describe(rows, columns)


def encode(rows, train=None, task=None, max_length=16, tokenizer=None, **columns):
    task = task or SequenceClassification()
    facts = describe(train or rows, task, **columns)
    return prepared(task, rows, tokenizer or bert_tokenizer(), facts, max_length)


def labels(encoded):
    return encoded.rows["labels"][:]


NAMES = {
    "texts": (data(["b", "a", "b"]), SINGLE, ["a", "b"], [1, 0, 1]),
    "integers": (data([10, 2, 10]), SINGLE, ["2", "10"], [1, 0, 1]),
    "negative integers": (data([1, -1, 2]), SINGLE, ["-1", "1", "2"], [1, 0, 2]),
    "truth": (data([True, False, True]), SINGLE, ["False", "True"], [1, 0, 1]),
    "names kept beside ids": (data([1, 0, 1], ClassLabel(names=["z", "a"])), SINGLE, ["z", "a"], [1, 0, 1]),
    "lists": (data([["b"], ["c", "a"], []]), MULTI, ["a", "b", "c"], [[0, 1, 0], [1, 0, 1], [0, 0, 0]]),
    "lists of integers": (data([[7], [3, 7], []]), MULTI, ["3", "7"], [[0, 1], [1, 1], [0, 0]]),
    "lists of ids with names": (
        data([[1], [0, 2], []], List(ClassLabel(names=["z", "a", "m"]))),
        MULTI,
        ["z", "a", "m"],
        [[0, 1, 0], [1, 0, 1], [0, 0, 0]],
    ),
    "fractions": (data([0.5, 2.0, 1.25]), REGRESSION, [], [0.5, 2.0, 1.25]),
    "whole fractions": (data([1.0, 2.0, 5.0]), REGRESSION, [], [1.0, 2.0, 5.0]),
}


@pytest.mark.parametrize(("rows", "problem", "names", "expected"), NAMES.values(), ids=NAMES)
def test_labels_of_every_kind_get_names_and_ids(rows, problem, names, expected):
    facts = describe(rows)
    assert (facts["problem_type"], facts["labels"]) == (problem, names)
    assert labels(encode(rows)) == expected
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize("values", [["c", "a", "b"] * 3, [30, 4, 200] * 3, [["a"], ["c", "b"], []] * 3])
def test_ids_do_not_depend_on_the_order_of_rows(values):
    shuffled = random.Random(1).sample(values, len(values))
    assert shuffled != values
    assert describe(data(shuffled)) == describe(data(values))


def test_a_label_that_train_has_not_is_refused_with_row_and_label():
    train = data(["good", "bad"])
    with pytest.raises(UserError, match="row 1: label 'goood' does not occur in train, which has bad, good"):
        encode(data(["good", "goood"]), train)


def test_a_label_of_a_list_that_train_has_not_is_refused():
    with pytest.raises(UserError, match="row 1: label 'c' does not occur in train"):
        encode(data([["a"], ["b", "c"]]), data([["a"], ["b"]]))


def test_names_are_matched_where_only_one_split_keeps_them_beside_ids():
    train, validation = data([0, 1], ClassLabel(names=["z", "a"])), data(["a", "z"])
    assert labels(encode(validation, train)) == [1, 0]
    assert labels(encode(train, validation)) == [1, 0]


@pytest.mark.parametrize("missing", [None, ""])
def test_a_row_without_a_label_is_dropped_and_counted(missing):
    encoded = encode(data(["a", missing, "b", missing]))
    assert labels(encoded) == [0, 1]
    assert encoded.account.dropped == {"no label": [1, 3]}


def test_an_id_below_zero_of_named_labels_is_no_label():
    encoded = encode(data([0, -1, 1], ClassLabel(names=["a", "b"])))
    assert labels(encoded) == [0, 1]
    assert encoded.account.dropped == {"no label": [1]}


SECRET = "no label: -1 beside 0 to 1; where it is a class, write names of classes"
UNLABELLED = {
    "what losses ignore": ([0, -100, 1], {"no label": [1]}),
    "what losses ignore, without 0": ([5, -100, 7], {"no label": [1]}),
    "-1 beside 0, 1": ([0, -1, 1], {SECRET: [1]}),
    "-1 and a gap": ([0.0, -1.0, 1.0, None], {SECRET: [1], "no label": [3]}),
}


@pytest.mark.parametrize(("values", "dropped"), UNLABELLED.values(), ids=UNLABELLED)
def test_a_number_that_says_that_there_is_no_label_is_no_class(values, dropped):
    encoded = encode(data(values))
    assert labels(encoded) == [0, 1]
    assert encoded.account.dropped == dropped


def test_a_label_kept_secret_outside_of_train_is_dropped():
    assert encode(data([-1, 1]), data([0, 1])).account.dropped == {SECRET: [0]}


def test_what_losses_ignore_is_a_number_like_others_for_a_regression():
    assert labels(encode(data([0.5, -100.0]))) == [0.5, -100.0]


def test_names_in_one_source_and_numbers_in_another_are_refused():
    named, numbered = data([0, 1], ClassLabel(names=["neg", "pos"])), data([0, 1])
    with pytest.raises(UserError, match=r"the numbers 0, 1, and those of another are neg, pos\. Write the names"):
        SequenceClassification().join([describe(named), describe(numbered)])


def test_sources_with_other_names_or_other_numbers_are_joined():
    task = SequenceClassification()
    assert task.join([describe(data(["a", "b"])), describe(data(["b", "c"]))])[0]["labels"] == ["a", "b", "c"]
    assert task.join([describe(data([0, 1])), describe(data([1, 2]))])[0]["labels"] == ["0", "1", "2"]


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_row_without_a_number_is_dropped_and_counted(missing):
    encoded = encode(data([0.5, missing, 1.5]))
    assert labels(encoded) == [0.5, 1.5]
    assert encoded.account.dropped == {"no label": [1]}


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_integers_with_gaps_stay_labels_though_they_are_read_as_fractions(missing):
    train = data([1.0, missing, 0.0])
    assert describe(train) == {
        "columns": {"text": "text", "label": "label"}, "problem_type": SINGLE, "labels": ["0", "1"]
    }  # fmt: skip
    assert labels(encode(train)) == [1, 0]
    assert labels(encode(data([0, 1]), train)) == [0, 1]
    assert labels(encode(train, data([0, 1]))) == [1, 0]


def test_a_row_without_labels_is_dropped_and_one_with_an_empty_list_is_kept():
    encoded = encode(data([["a"], None, [], ["b"]]))
    assert labels(encoded) == [[1, 0], [0, 0], [0, 1]]
    assert encoded.account.dropped == {"no label": [1]}


@pytest.mark.parametrize("text", [None, "", "  "])
def test_a_row_without_a_text_is_dropped_and_counted(text):
    encoded = encode(data(["a", "b", "a"], texts=["good", text, "bad"]))
    assert encoded.account.dropped == {"no text": [1]}
    assert encoded.account.read == len(encoded.rows) + 1


ONE_CLASS = {
    "texts": (data(["a", "a"]), "a"),
    "integers": (data([3, 3]), "3"),
    "names beside ids": (data([1, 1], ClassLabel(names=["neg", "pos"])), "pos"),
}


@pytest.mark.parametrize(("rows", "name"), ONE_CLASS.values(), ids=ONE_CLASS)
def test_one_class_only_is_refused(rows, name):
    with pytest.raises(UserError, match=f"column label of train holds one label only: {name}"):
        describe(rows)


def test_no_label_at_all_is_refused():
    with pytest.raises(UserError, match="column label of train holds no label"):
        describe(data([None, None], Value("string")))


def test_lists_of_zeros_and_ones_are_refused():
    with pytest.raises(UserError, match="0 or 1 for each label; write the names"):
        describe(data([[0, 1, 0], [1, 0, 0]]))


@pytest.mark.parametrize("values", [[[1, 0], [0, 1], [1, 0]], [[True, False], [False, True]], [[0, 1], None]])
def test_lists_that_may_say_of_each_label_whether_it_applies_are_refused(values):
    expected = r"of each label whether it applies, or that the labels 0 and 1 both do\. Write the names .* as texts"
    with pytest.raises(UserError, match=expected):
        describe(data(values))


@pytest.mark.parametrize("values", [[["0", "1"], ["1", "0"]], [[0, 1], [1]], [[0, 1], [1, 0], []], [[0], [1]]])
def test_lists_that_name_the_labels_0_and_1_are_read(values):
    assert describe(data(values))["labels"] == ["0", "1"]


def test_the_kind_of_problem_can_be_written():
    assert describe(data([1.0, 2.0]), SequenceClassification(problem_type=SINGLE))["labels"] == ["1", "2"]
    assert describe(data([1, 2]), SequenceClassification(problem_type=REGRESSION))["labels"] == []


def test_a_label_that_is_no_number_is_refused_by_a_regression():
    with pytest.raises(UserError, match="row 0: label 'a' is not a number"):
        encode(data(["a", "b"]), task=SequenceClassification(problem_type=REGRESSION))


def test_a_label_that_is_no_list_is_refused_where_lists_are_expected():
    with pytest.raises(UserError, match="row 0: label 'a' is not a list"):
        encode(data(["a", "b"]), data([["a"], ["b"]]))


COLUMNS = {
    "the usual names": (["text", "label"], {}, {"text": "text", "label": "label"}),
    "other usual names": (["id", "review", "score"], {}, {"text": "review", "label": "score"}),
    "a pair": (
        ["premise", "hypothesis", "label"],
        {},
        {"text": "premise", "text_pair": "hypothesis", "label": "label"},
    ),
    "a question and its sentence": (
        ["question", "sentence", "label"],
        {},
        {"text": "question", "text_pair": "sentence", "label": "label"},
    ),
    "a named text alone": (["text", "text_pair", "label"], {"text": "text"}, {"text": "text", "label": "label"}),
    "named": (["a", "b", "c"], {"text": "b", "label": "a"}, {"text": "b", "label": "a"}),
}


@pytest.mark.parametrize(("names", "given", "expected"), COLUMNS.values(), ids=COLUMNS)
def test_columns_are_found_or_named(names, given, expected):
    rows = Dataset.from_dict({name: ["x", "y"] for name in names})
    assert describe(rows, **given)["columns"] == expected


def test_a_named_column_that_is_missing_is_answered_with_the_nearest():
    expected = "dataset.columns.label=sentimnt: the columns are text, sentiment. Did you mean sentiment?"
    with pytest.raises(UserError) as refused:
        describe(Dataset.from_dict({"text": ["x"], "sentiment": ["y"]}), label="sentimnt")
    assert str(refused.value) == expected


def test_columns_that_cannot_be_told_are_asked_for():
    with pytest.raises(UserError, match=r"no column for the label among text, mood\. Write dataset\.columns\.label="):
        describe(Dataset.from_dict({"text": ["x"], "mood": ["y"]}))


def test_a_split_without_the_columns_of_train_is_refused():
    with pytest.raises(UserError, match=r"label: the columns are text, labels. Did you mean labels\?"):
        encode(Dataset.from_dict({"text": ["x"], "labels": ["a"]}), data(["a", "b"]))


def test_a_second_text_that_is_not_named_is_not_read():
    rows = Dataset.from_dict({"text": ["good", "bad"], "text_pair": ["cat", "dog"], "label": ["a", "b"]})
    assert encode(rows, text="text").rows["input_ids"][:] == bert_tokenizer()(["good", "bad"])["input_ids"]


def test_pairs_keep_what_tells_their_texts_apart():
    rows = Dataset.from_dict({"premise": ["good film", "bad"], "hypothesis": ["cat", "one dog"], "label": ["a", "b"]})
    encoded, tokenizer = encode(rows), bert_tokenizer()
    expected = tokenizer(rows["premise"][:], rows["hypothesis"][:])
    assert encoded.rows["input_ids"][:] == expected["input_ids"]
    assert encoded.rows["token_type_ids"][:] == expected["token_type_ids"]
    assert 1 in encoded.rows["token_type_ids"][0]


def test_a_tokenizer_that_makes_no_token_types_gets_none():
    tokenizer = bert_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    assert list(encode(data(["a", "b"]), tokenizer=tokenizer).rows[0]) == ["input_ids", "labels"]


def test_truncated_rows_are_counted_and_keep_their_special_tokens():
    encoded, tokenizer = encode(data(["a", "b"], texts=["good " * 30, "bad"]), max_length=8), bert_tokenizer()
    assert encoded.account.notes["truncated"] == 1
    assert tokenizer.decode(encoded.rows["input_ids"][0]) == "[CLS] good good good good good good [SEP]"


@pytest.mark.parametrize(("overlong", "expected"), [("drop", {"longer than 8 tokens": [0]}), ("truncate", {})])
def test_what_becomes_of_long_rows_is_chosen(overlong, expected):
    rows = data(["a", "b"], texts=["good " * 30, "bad"])
    assert encode(rows, task=SequenceClassification(overlong=overlong), max_length=8).account.dropped == expected


def test_a_long_row_can_be_an_error_that_names_it():
    rows = data(["a", "b"], texts=["bad", "good " * 30])
    with pytest.raises(UserError, match="row 1 has 32 tokens"):
        encode(rows, task=SequenceClassification(overlong="error"), max_length=8)


@pytest.mark.parametrize(("values", "dtype", "shape"), [
    (["a", "b"], torch.int64, (2,)), ([["a"], ["a", "b"]], torch.float32, (2, 2)), ([0.5, 1.5], torch.float32, (2,)),
])  # fmt: skip
def test_a_batch_holds_what_the_loss_takes(values, dtype, shape):
    encoded = encode(data(values, texts=["good", "very good film"]))
    batch = SequenceClassification().collator(bert_tokenizer())(list(encoded.rows))
    assert batch["labels"].dtype == dtype
    assert batch["labels"].shape == shape
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


def loaded(rows, **columns):
    """The model with the head and the labels that these rows ask for."""
    task = SequenceClassification()
    kwargs = task.model_kwargs(describe(rows, **columns))
    torch.manual_seed(1)
    return AutoModelForSequenceClassification.from_pretrained(
        bert(), dtype=torch.float32, ignore_mismatched_sizes=True, **kwargs
    ).eval()


def predict(model, inputs, **options):
    tokenizer = AutoTokenizer.from_pretrained(bert())
    return list(SequenceClassification().predict(model, tokenizer, inputs, options))


def logits(model, *texts):
    with torch.no_grad():
        return model(**bert_tokenizer()(*texts, return_tensors="pt")).logits[0]


def test_a_prediction_is_a_label_with_its_confidence():
    model = loaded(data(["bad", "good"]))
    with torch.no_grad():
        # The first two texts get different labels.
        model.classifier.bias.sub_((logits(model, TEXTS[0]) + logits(model, TEXTS[1])) / 2)
    for text in TEXTS:
        expected = logits(model, text).softmax(-1)
        (found,) = predict(model, [text])
        assert found["input"] == text
        assert found["label"] == ["bad", "good"][int(expected.argmax())]
        assert found["confidence"] == pytest.approx(float(expected.max()), abs=1e-4)
    assert len({answer["label"] for answer in predict(model, TEXTS)}) == 2


def test_a_prediction_of_several_labels_is_those_above_one_half():
    names = ["a", "b", "c"]
    model = loaded(data([["a"], ["b"], ["c"]]))
    with torch.no_grad():
        model.classifier.weight.mul_(30)
    found = predict(model, TEXTS)
    for text, answer in zip(TEXTS, found, strict=True):
        scores = dict(zip(names, logits(model, text).sigmoid().tolist(), strict=True))
        assert answer["labels"] == pytest.approx({n: s for n, s in scores.items() if s > 0.5}, abs=1e-4)
    assert {len(answer["labels"]) for answer in found} != {0}


def test_a_prediction_of_a_regression_is_its_value():
    model = loaded(data([0.5, 1.5]))
    (found,) = predict(model, ["good film"])
    assert found == {"input": "good film", "value": pytest.approx(float(logits(model, "good film")[0]), abs=1e-4)}


def test_a_pair_is_predicted_from_every_form():
    rows = Dataset.from_dict({"premise": ["good", "bad"], "hypothesis": ["cat", "dog"], "label": [0.5, 1.5]})
    model, facts = loaded(rows), describe(rows)
    row = {"premise": "good film", "hypothesis": "the cat"}
    forms = [["good film", "the cat"], row, {"text": "good film", "text_pair": "the cat"}]
    value = round(float(logits(model, "good film", "the cat")[0]), 4)
    assert [answer["value"] for answer in predict(model, forms, columns=facts["columns"])] == [value] * 3
    assert value != predict(model, ["good film the cat"])[0]["value"]


@pytest.mark.parametrize("limit", [16, 10**30], ids=["the tokenizer's limit", "the model's limit"])
def test_a_text_longer_than_the_limit_is_truncated(limit):
    model, tokenizer = loaded(data([0.5, 1.5])), bert_tokenizer(limit)
    (long,) = SequenceClassification().predict(model, tokenizer, ["good bad " * 50], {})
    assert long["value"] == predict(model, [" ".join(["good bad"] * 7)])[0]["value"]


def test_a_text_is_truncated_at_the_length_that_was_trained():
    model = loaded(data([0.5, 1.5]))
    (long,) = predict(model, ["good " * 12], max_length=8)
    assert long["value"] == predict(model, ["good " * 6])[0]["value"]
    assert long["value"] != predict(model, ["good " * 12])[0]["value"]


@pytest.mark.parametrize("item", ["", ["good", ""], {"other": "x"}, {"text": None}, ["a", "b", "c"], 7, None])
def test_an_input_that_is_no_text_is_named(item):
    with pytest.raises(UserError, match="input 1: "):
        predict(loaded(data(["a", "b"])), ["good", item])


def test_the_head_gets_the_names_of_the_labels():
    config = loaded(data(["b", "a", "c"])).config
    assert (config.num_labels, config.id2label, config.problem_type) == (3, {0: "a", 1: "b", 2: "c"}, SINGLE)
    assert config.label2id == {"a": 0, "b": 1, "c": 2}
