"""Tasks over an encoder besides classification of texts: words are tagged, hidden words found, choices scored.

Each is trained, verified and asked by the command line's own path, on rows that a tiny model can learn.
"""

import json
from functools import cache

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import prepared
from tiny_runs import LABELS, LORA, bert, common, config, masked, own_caches, root, worked
from transformers import AutoModelForMultipleChoice, AutoTokenizer

from finetune.artifacts import verify
from finetune.artifacts.predict import answering
from finetune.config.task import RowError
from finetune.data import choosing, report, tags
from finetune.data.masking import Masking
from finetune.data.prepare import prepare
from finetune.data.preview import Choice, shown
from finetune.errors import FinetuneError, UserError
from finetune.evaluation.scores import entities
from finetune.tasks import multiple_choice
from finetune.tasks.token_classification import TokenClassification

ANIMALS, PLANTS = LABELS["animal"].split(), LABELS["plant"].split()


def written(name, rows):
    """A file of rows; returns its path."""
    folder = root() / "tasks"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / f"{name}.jsonl"


def tagged(count):
    """Two words in a row that are animals are one entity; a plant is another kind of it."""
    rows = []
    for at in range(count):
        animal, plant = ANIMALS[at % 4], PLANTS[at % 3]
        if at % 2:
            rows.append({"tokens": ["the", animal, animal], "ner_tags": ["O", "B-animal", "I-animal"]})
        else:
            rows.append({"tokens": ["the", plant, "the"], "ner_tags": ["O", "B-plant", "O"]})
    return rows


def chosen(count):
    """Which of two or three words is an animal."""
    rows = []
    for at in range(count):
        choices = [ANIMALS[at % 4], PLANTS[at % 4], PLANTS[(at + 1) % 4]][: 2 + at % 2]
        answer = at % len(choices)
        choices[0], choices[answer] = choices[answer], choices[0]
        rows.append({"question": "the", "choices": choices, "answer": answer})
    return rows


def recipe(task, *more):
    """A recipe on the command line."""
    if task == "masked_lm":
        return masked(*more)
    rows = {"token_classification": tagged, "multiple_choice": chosen}[task]
    train, validation = written(f"{task}_train", rows(48)), written(f"{task}_validation", rows(12))
    files = f"{{train: {train}, validation: {validation}}}"
    mine = [part for part in common(files) if not part.startswith("dataset.path")]
    return [f"task={task}", f"model.path={bert()}", f"dataset.path={root() / 'tasks'}", *mine, *more]


@cache
def trained(task, method="full"):
    more = LORA if method == "lora" else ("adapter=qlora", "adapter.lora_dropout=0") if method == "qlora" else ()
    return worked(recipe(task, *more, "trainer.max_steps=40", f"name={task}_{method}"), root() / "runs")


TASKS = ("token_classification", "masked_lm", "multiple_choice")


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("task", TASKS)
def test_a_trained_model_is_better_than_the_untouched_one_and_is_verified(task, method):
    folder = trained(task, method)
    found = folder.read("evaluation.json")
    name, greater = found["score"]
    gained = found["scores"][name] - found["baseline"][name]
    assert gained > 0 if greater else gained < 0
    with own_caches():
        assert all(finding.passed for finding in verify.compare(folder))


def answers(task, inputs, method="full"):
    return list(answering(trained(task, method), {})(inputs))


def test_spans_are_answered_with_their_place_in_a_text_or_a_list_of_words():
    of_text, of_words = answers("token_classification", ["the cat cat", ["the", "cat", "cat"]])
    (found,) = of_text["entities"]
    assert (found["label"], found["text"], found["start"], found["end"]) == ("animal", "cat cat", 4, 11)
    assert 0 < found["confidence"] <= 1
    (listed,) = of_words["entities"]
    assert (listed["label"], listed["start"], listed["end"]) == ("animal", 1, 3)


def test_the_likeliest_words_are_answered_for_each_mask():
    (found,) = answers("masked_lm", ["[MASK] cat [MASK]"])
    assert len(found["masks"]) == 2
    assert max(found["masks"][0], key=found["masks"][0].get) == "the"


def test_a_choice_is_answered_with_its_number_and_its_confidence():
    rows = [{"question": "the", "choices": ["oak", "dog"]}, {"question": "the", "choices": ["cow", "elm", "fir"]}]
    assert [(found["choice"], found["index"]) for found in answers("multiple_choice", rows)] == [
        ("dog", 1),
        ("cow", 0),
    ]


@pytest.mark.parametrize(
    ("task", "wrong"),
    [
        ("token_classification", 3),
        ("token_classification", {"other": ["a"]}),
        ("masked_lm", "nothing is hidden"),
        ("masked_lm", {"other": "[MASK]"}),
        ("multiple_choice", "no choices"),
        ("multiple_choice", {"question": "x", "choices": ["one"]}),
    ],
)
def test_an_input_that_cannot_be_asked_is_refused_by_number(task, wrong):
    with pytest.raises(UserError, match="input 0: "):
        answers(task, [wrong])


# Tags of words


def read(rows, **columns):
    """The prepared rows of a file."""
    file = written("prepared", rows)
    with own_caches():
        return prepare(config([f"dataset.path={file}", f"model.path={bert()}", "task=token_classification",
                               "dataset.validation_size=1", "dataset.max_dropped=0.9",
                               *(f"dataset.columns.{role}={name}" for role, name in columns.items())]))  # fmt: skip


def test_a_tag_is_at_the_first_piece_of_its_word_and_all_pieces_go_on_as_inner_ones():
    ids = {"O": 0, "B-x": 1, "I-x": 2}
    words = [None, 0, 0, 1, 1, None]
    assert tags.aligned(words, [1, 0], tags.first)["labels"] == [-100, 1, -100, 0, -100, -100]
    assert tags.aligned(words, [1, 0], tags.spreading(ids))["labels"] == [-100, 1, 2, 0, 0, -100]


BIOES = ["O", "B-x", "I-x", "E-x", "S-x"]


@pytest.mark.parametrize(
    ("tag", "count", "expected"),
    [
        ("S-x", 1, ["S-x"]),
        ("S-x", 2, ["B-x", "E-x"]),
        ("S-x", 3, ["B-x", "I-x", "E-x"]),
        ("B-x", 3, ["B-x", "I-x", "I-x"]),
        ("I-x", 2, ["I-x", "I-x"]),
        ("E-x", 3, ["I-x", "I-x", "E-x"]),
    ],
)
def test_the_pieces_of_a_word_mark_one_entity_together(tag, count, expected):
    spread = tags.spreading({name: at for at, name in enumerate(BIOES)})
    found = [BIOES[each] for each in spread(BIOES.index(tag), count)]
    assert found == expected
    assert len(entities([found])) == 1


@pytest.mark.parametrize(("labels", "tag"), [(["O", "B-x"], "B-x"), (["O", "B-x", "I-x", "S-x"], "S-x")])
def test_further_pieces_that_there_are_no_tags_for_are_left_out(labels, tag):
    spread = tags.spreading({name: at for at, name in enumerate(labels)})
    assert spread(labels.index(tag), 3) == [labels.index(tag), -100, -100]


def test_words_of_one_entity_and_of_the_next_are_answered_apart():
    assert list(tags.stretches(["B-x", "E-x", "E-x", "S-x", "I-x", "E-x"])) == [(0, 2), (2, 3), (3, 4), (4, 6)]


MISSING = {
    "what losses ignore": ([[0, -100], [1, 0]], ["0", "1"]),
    "nothing": ([["B-x", None], ["O", "B-x"]], ["O", "B-x"]),
    "-1 beside 0, 1": ([[0, -1], [1, 0]], ["0", "1"]),
}


@pytest.mark.parametrize("label_pieces", ["first", "all"])
@pytest.mark.parametrize(("given", "names"), MISSING.values(), ids=MISSING)
def test_a_word_without_a_tag_is_ignored_and_counted(given, names, label_pieces):
    rows = Dataset.from_dict({"tokens": [["the", "cat"]] * 2, "ner_tags": given})
    task, words = TokenClassification(label_pieces=label_pieces), AutoTokenizer.from_pretrained(bert())
    facts = task.describe(rows, {})
    assert facts["labels"] == names
    found = prepared(task, rows, words, facts, 16)
    tag = names.index(str(given[0][0]))
    assert found.rows["labels"][0] == [-100, tag, -100, -100]
    assert found.account.notes["words without a tag"] == 1


def test_tags_with_names_in_one_source_and_numbers_in_another_are_refused():
    with pytest.raises(UserError, match=r"numbers 0, 1, and those of another are O, B-x\. Write the names"):
        TokenClassification().join([{"labels": ["O", "B-x"]}, {"labels": ["0", "1"]}])


def test_a_tag_whose_word_has_no_tokens_is_counted():
    rows = [{"tokens": ["cat", "\u200b", "cat"], "ner_tags": ["B-a", "B-a", "O"]} for _ in range(4)]
    assert read(rows).report["train"]["notes"]["tags of words without tokens"] == 3


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"tokens": ["cat", "dog"], "ner_tags": ["O"]}, r"row \d has 2 words and 1 tags"),
        ({"tokens": ["cat"], "ner_tags": None}, "and None, where lists of words and of tags"),
        ({"words": ["cat"]}, "no column for the"),
    ],
)
def test_tags_that_do_not_belong_to_words_are_refused(row, reason):
    with pytest.raises(FinetuneError, match=reason):
        read([row] * 3 if "words" in row else [*tagged(4), row, *tagged(4)])


def test_rows_without_words_are_dropped_and_counted():
    found = read([*tagged(6), {"tokens": [], "ner_tags": []}, *tagged(6)])
    dropped = {reason: entry["rows"] for split in found.report.values() for reason, entry in split["dropped"].items()}
    assert dropped == {"no words": 1}


def test_ids_of_tags_without_names_are_their_own_names():
    rows = [{"tokens": ["cat", "dog"], "ner_tags": [2, 10]} for _ in range(6)]
    prepared = read(rows)
    assert prepared.facts["labels"] == ["2", "10"]
    assert [label for label in prepared.rows("train")[0]["labels"] if label != -100] == [0, 1]


def test_one_tag_alone_teaches_nothing():
    with pytest.raises(UserError, match="holds one tag only: O"):
        read([{"tokens": ["cat"], "ner_tags": ["O"]}] * 4)


def test_rows_are_shown_with_the_name_of_each_tag(tmp_path):
    prepared = read(tagged(8))
    with own_caches():
        rows = shown(prepared, Choice(count=6))
    row = next(row for row in rows if any(unit.label == "B-animal" for unit in row.units))
    assert [unit.label for unit in row.units if unit.is_trained] == ["", "B-animal", "I-animal"]
    report.write(prepared, Choice(), [row], tmp_path / "page.html")
    text, found = (tmp_path / "page.html").read_text(encoding="utf-8"), prepared.report["train"]
    assert text.count("<b>B-animal</b>") == text.count("<div class='turn ") == 1
    outside, tokens = found["audit"]["labels"]["O"], found["notes"]["trained tokens"]
    assert f"O <span class=sub>{outside} of {tokens} " in text


def test_choices_are_shown_apart_by_their_numbers():
    with own_caches():
        (row,) = shown(prepare(config(recipe("multiple_choice"))), Choice(row=1))
    begun = [unit for unit in row.units if unit.begins]
    assert [unit.begins for unit in begun] == ["choice 0", "choice 1", "choice 2"]
    assert {unit.text for unit in begun} == {"[CLS]"}


def test_a_page_of_rows_whose_labels_are_drawn_while_training_speaks_of_none(tmp_path):
    with own_caches():
        prepared = prepare(config(masked()))
        report.write(prepared, Choice(), shown(prepared, Choice()), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "green" not in text
    assert "Hover over a token" in text
    assert "0 trained" not in text


def test_what_counts_are_entities_where_all_tags_mark_them_and_tags_elsewhere():
    task = TokenClassification()
    assert task.metrics({"labels": ["O", "B-x"]})[0] == "entity_f1"
    assert task.metrics({"labels": ["NOUN", "VERB"]}) == ("tag_accuracy",)


# Hidden words


def masking(**more):
    return Masking(AutoTokenizer.from_pretrained(bert()), 0.15, **more)


def row(words=8):
    ids = [2, *range(5, 5 + words), 3]
    return {"input_ids": ids}


def test_special_tokens_are_never_hidden_and_one_token_of_a_row_always_is():
    batch = masking()([row(), row(1)] * 50)
    assert (batch["labels"][:, 0] == -100).all()
    assert (batch["labels"] != -100).any(-1).all()


def test_what_is_hidden_follows_the_generator_while_training_and_the_row_while_scoring():
    drawn, fixed = masking(), masking(seed=lambda data: len(data))
    torch.manual_seed(1)
    first = drawn([row()] * 20)["labels"]
    torch.manual_seed(1)
    assert torch.equal(first, drawn([row()] * 20)["labels"])
    assert not torch.equal(first, drawn([row()] * 20)["labels"])
    assert torch.equal(fixed([row()])["labels"], fixed([row(), row(3)])["labels"][:1])


def test_labels_lie_at_their_tokens_also_where_the_tokenizer_pads_on_the_left():
    words = AutoTokenizer.from_pretrained(bert(), padding_side="left")
    rows = [row(), row(2), row(1)]
    batch = Masking(words, 1.0)(rows)
    for at, each in enumerate(rows):
        ids = each["input_ids"]
        assert batch["labels"][at, : len(ids)].tolist() == [-100, *ids[1:-1], -100]
        assert batch["attention_mask"][at].tolist() == [1] * len(ids) + [0] * (10 - len(ids))


def test_the_pieces_of_a_word_are_hidden_together():
    of_words = {**row(), "words": [-1, 0, 0, 1, 1, 2, 2, 3, 3, -1]}
    labels = masking()([of_words] * 50)["labels"]
    pairs = (labels[:, 1:9] != -100).view(50, 4, 2)
    assert torch.equal(pairs[..., 0], pairs[..., 1])


def test_a_text_of_special_tokens_alone_is_dropped_and_counted():
    file = written("special", [{"text": text} for text in ("the cat", "[SEP] [SEP]", "the dog", "the hen")])
    with own_caches():
        found = prepare(config(["task=masked_lm", f"model.path={bert()}", f"dataset.path={file}",
                                "dataset.validation_size=1", "dataset.max_dropped=0.9"]))  # fmt: skip
    dropped = {reason for split in found.report.values() for reason in split["dropped"]}
    assert dropped == {"no token that could be hidden"}


def test_a_tokenizer_that_can_hide_nothing_is_refused(tmp_path):
    words = AutoTokenizer.from_pretrained(bert())
    words.mask_token = None
    with pytest.raises(UserError, match="no mask token"):
        config(masked()).task.settle({}, words, None)


# Choices


def asking(choices, answers):
    return Dataset.from_dict({"question": ["the"] * len(answers), "choices": choices, "answer": answers})


def answered(rows, train=None):
    """The number of the right choice of each row, read as answers of train are."""
    task = multiple_choice.MultipleChoice()
    facts = task.describe(train or rows, {})
    return prepared(task, rows, AutoTokenizer.from_pretrained(bert()), facts, 32).rows["labels"][:]


TWO = ["one", "two"]
WRITTEN = {
    "numbers": ([TWO, TWO], [1, 0], [1, 0]),
    "numbers in texts": ([TWO, TWO], ["1", "0"], [1, 0]),
    "letters": ([TWO, TWO], ["B", "a"], [1, 0]),
    "texts": ([TWO, TWO], ["two", "one"], [1, 0]),
    "numbers that are texts of choices": ([[3, 4], [2, 3]], [4, 2], [1, 0]),
    "numbers beside texts that are numbers": ([["3", "1"], ["0", "1"]], [0, 1], [0, 1]),
    "texts, one of which is a number of a choice": ([["3", "0"], ["5", "7"]], ["0", "7"], [1, 1]),
    "texts, one of which is a letter": ([["B", "A"], TWO], ["A", "two"], [1, 1]),
}


@pytest.mark.parametrize(("choices", "answers", "expected"), WRITTEN.values(), ids=WRITTEN)
def test_the_right_choice_is_named_by_number_letter_or_text(choices, answers, expected):
    assert answered(asking(choices, answers)) == expected


LABELLED = {
    "numbers from 1": (["1", "2", "3", "4"], "2", 1),
    "the last number": (["1", "2", "3", "4"], "4", 3),
    "letters in another order": (["C", "A", "B", "D"], "A", 1),
    "numbers for a label in text": (["1", "2", "3", "4"], 2, 1),
}


@pytest.mark.parametrize(("names", "answer", "expected"), LABELLED.values(), ids=LABELLED)
def test_an_answer_is_looked_up_among_the_labels_of_choices(names, answer, expected):
    choices = {"label": names, "text": ["ice", "fire", "rain", "wind"]}
    assert answered(asking([choices, choices], [answer, answer])) == [expected] * 2


def test_an_answer_that_is_no_label_of_a_choice_is_refused_by_row():
    choices = {"label": ["1", "2"], "text": TWO}
    with pytest.raises(UserError, match=r"row 1: answer '0' names none of its 2 choices by label.* one of 1, 2$"):
        answered(asking([choices, choices], ["1", "0"]))


@pytest.mark.parametrize("names", [["A", "A"], ["A"], None])
def test_labels_that_do_not_tell_choices_apart_are_refused_by_row(names):
    choices = [{"label": each, "text": TWO} for each in (["A", "B"], names)]
    with pytest.raises(UserError, match=r"row 1: the labels of its 2 choices are .*Write a label of its own for each"):
        answered(asking(choices, ["A", "A"]))


AMBIGUOUS = {
    "numbers or texts": ([["3", "4", "5", "1"]], ["1"], "'4' by number, and '1' by text"),
    "numbers or numbers in choices": ([[3, 4, 5, 1]], [1], "4 by number, and 1 by text"),
    "letters or texts": ([["B", "A"]], ["A"], "'B' by letter, and 'A' by text"),
}


@pytest.mark.parametrize(("choices", "answers", "read"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_answers_that_name_different_choices_in_two_ways_are_refused(choices, answers, read):
    with pytest.raises(UserError, match=rf"{read}, .*Write choices as \{{label: .* and the label as the answer"):
        answered(asking(choices, answers))


def test_answers_of_other_rows_are_read_as_those_of_train():
    train = asking([TWO, TWO], ["1", "0"])
    assert answered(asking([["3", "1"]], ["1"]), train) == [1]
    with pytest.raises(UserError, match=r"row 0: answer 'two' names none of its 2 choices by number.* one of 0, 1$"):
        answered(asking([TWO], ["two"]), train)


@pytest.mark.parametrize("answer", ["2", "C", "three", "-1", "0.5", "True"])
def test_an_answer_that_names_no_choice_is_refused_by_row(answer):
    with pytest.raises(UserError, match=r"row 1: answer .* names none of its 2 choices"):
        answered(asking([TWO, TWO], ["0", answer]))


def test_truth_is_no_number_of_a_choice():
    with pytest.raises(UserError, match=r"row 0: answer True names none of its 2 choices"):
        answered(asking([["yes", "no"]], [True]))


def test_rows_without_an_answer_or_choices_decide_nothing_and_are_dropped():
    assert answered(asking([TWO, TWO, None], ["", "B", "A"])) == [1]


@pytest.mark.parametrize(("question", "choices"), [("", ["a", "b"]), (None, ["a", "b"]), ("q", ["a"]), ("q", None)])
def test_a_row_that_asks_nothing_is_dropped_with_its_reason(question, choices):
    with pytest.raises(RowError, match=r"no question|fewer than two choices"):
        choosing.asked(question, choices)


def test_what_is_cut_is_counted_and_what_just_fits_is_not():
    task, words = multiple_choice.MultipleChoice(), AutoTokenizer.from_pretrained(bert())
    fits, cut = (task._row(words, "the the the", ["cat", "dog"], 0, limit) for limit in (7, 6))
    assert (fits["choices"], fits["notes"]) == ([7, 7], [])
    assert (cut["choices"], cut["notes"]) == ([6, 6], ["truncated"])


def test_a_row_with_fewer_choices_than_others_loses_nothing_to_those_it_has_not():
    task, words = multiple_choice.MultipleChoice(), AutoTokenizer.from_pretrained(bert())
    model = AutoModelForMultipleChoice.from_pretrained(bert()).eval()
    rows = [task._row(words, "the", choices, 0, 16) for choices in (["cat", "dog"], ["cat", "dog", "cow"])]
    arrays = [{name: np.asarray(value) for name, value in each.items() if name != "notes"} for each in rows]
    together, *alone = (dict(task.collator(words)(some)) for some in (arrays, arrays[:1], arrays[1:]))
    assert together["input_ids"].shape[:2] == (2, 3)
    assert together["labels"].tolist() == [0, 0]
    assert together["is_choice"].tolist() == [[True, True, False], [True, True, True]]
    losses = [float(task.forward(model, batch, {}).loss) for batch in (together, *alone)]
    assert losses[0] == pytest.approx((losses[1] + losses[2]) / 2, rel=1e-5)
