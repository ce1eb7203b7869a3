"""What `finetune data` shows: letters with their role, what is trained, numbers that add up, a safe page."""

import json
from html.parser import HTMLParser
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from datasets import Dataset
from tiny import bert_tokenizer, chat_tokenizer
from tiny_runs import chat, classify, config, finetune, own_caches, prefer

from finetune.data import audit, page, preview, report
from finetune.data.prepare import prepare
from finetune.data.preview import Choice
from finetune.data.ragged import Ragged
from finetune.data.templates import headers
from finetune.errors import UserError

EVIL = "</i><script>alert(1)</script> & \"quoted\" 'so' 猫\n\nline"


@pytest.fixture(scope="module")
def chats():
    with own_caches():
        return prepare(config(chat()))


@pytest.fixture(scope="module")
def texts():
    with own_caches():
        return prepare(config(classify()))


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """Chats whose texts look like HTML."""
    folder = tmp_path_factory.mktemp("evil")
    asked, answered = {"role": "user", "content": EVIL}, {"role": "assistant", "content": EVIL}
    rows = [{"messages": [asked, answered]}, {"messages": [asked, {"role": "assistant", "content": "one"}]}]
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with own_caches(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        made = config([*chat(), f"dataset.path={folder}", "dataset.data_files=null", "tokenizer.max_length=2000",
                       "model.config.max_position_embeddings=2000"])  # fmt: skip
        return prepare(made)


def test_the_units_of_a_row_are_its_text_with_role_and_what_is_trained(chats):
    (row,) = preview.shown(chats, Choice(row=0))
    assert "".join(unit.text for unit in row.units) == chats.tokenizer.decode(chats.rows("train")[0]["input_ids"])
    assert sum(len(unit.ids) for unit in row.units) == row.tokens
    assert {unit.role for unit in row.units} == {"user", "assistant"}
    said = "".join(unit.text for unit in row.units if unit.is_trained)
    assert said.startswith("one ")
    assert said.endswith("<|im_end|>")
    assert {unit.role for unit in row.units if unit.is_trained} == {"assistant"}


def test_a_letter_of_several_tokens_is_one_unit():
    tokenizer = chat_tokenizer()
    ids = tokenizer("a猫é")["input_ids"]
    units = list(preview._units(tokenizer, ids, [("text", "", True)] * len(ids), {}))
    assert [unit.text for unit in units] == ["a", "猫", "é"]
    assert [token for unit in units for token in unit.ids] == ids


def test_words_of_pieces_are_shown_as_they_were_written():
    tokenizer = bert_tokenizer()
    ids = tokenizer("good xyz film")["input_ids"]
    units = list(preview._units(tokenizer, ids, [("text", "", True)] * len(ids), {}))
    assert "".join(unit.text for unit in units) == "[CLS] good xyz film [SEP]"


def test_the_role_of_each_token_is_that_of_the_last_header_before_it():
    heads = headers(chat_tokenizer())
    assert set(heads) == {"system", "user", "assistant", "tool"}
    flat = [*heads["user"], 7, 8, *heads["assistant"], 9, 7, *heads["assistant"], 5]
    first = len(heads["user"]) + 2 + len(heads["assistant"]) + 1
    numbers = preview.roles(Ragged(np.asarray(flat), np.asarray([0, first, len(flat)])), heads)
    names = ["text", *heads]
    expected = ["user"] * (len(heads["user"]) + 2) + ["assistant"] * (len(heads["assistant"]) + 1)
    assert [names[number] for number in numbers] == [*expected, "text", *["assistant"] * (len(heads["assistant"]) + 1)]


def test_trained_tokens_by_role_add_up(chats):
    numbers, roles = chats.report["train"]["audit"], preview.by_role(chats, "train")
    assert sum(every for every, _ in roles.values()) == numbers["tokens"]
    assert sum(said for _, said in roles.values()) == numbers["trained tokens"]
    assert roles["user"][1] == 0


def test_the_histogram_holds_every_row(chats, texts):
    for prepared in (chats, texts):
        lengths = prepared.report["train"]["audit"]["lengths"]
        rows = prepared.rows("train")
        edges = [edge for edge, _ in lengths["histogram"]]
        assert sum(rows for _, rows in lengths["histogram"]) == len(rows)
        assert len(set(np.diff(edges))) <= 1
        assert edges[-1] >= lengths["longest"]
        assert lengths["longest"] == max(len(row["input_ids"]) for row in rows)


def test_every_row_of_chats_trains_an_end(chats):
    assert chats.report["train"]["audit"]["rows with a trained end"] == chats.report["train"]["kept"]
    assert chats.report["train"]["audit"]["rows without"] == []


def test_rows_without_a_trained_end_are_named():
    rows = Dataset.from_dict({"input_ids": [[1, 2], [1, 3], [2, 1]], "labels": [[-100, 2], [-100, 3], [-100, 1]]})
    found = audit.audit(rows, {"stops": [2]})
    assert (found["rows with a trained end"], found["rows without"]) == (1, [1, 2])


def test_the_balance_of_labels_is_counted(texts):
    found = texts.report["train"]["audit"]["labels"]
    assert found == {"animal": 16, "plant": 16, "stone": 16}
    several = Dataset.from_dict({"input_ids": [[1], [2, 3]], "labels": [[1.0, 0.0], [1.0, 1.0]]})
    assert audit.audit(several, {"labels": ["a", "b"]})["labels"] == {"a": 2, "b": 1}
    numbers = Dataset.from_dict({"input_ids": [[1], [2]], "labels": [0.5, 1.5]})
    assert audit.audit(numbers, {"labels": []})["labels"] == {"least": 0.5, "mean": 1.0, "most": 1.5}


def test_a_split_without_rows_has_no_numbers():
    assert audit.audit(Dataset.from_dict({"input_ids": [], "labels": []}), {}) == {}


def test_the_worst_rows_are_the_longest_and_the_least_trained():
    rows = Dataset.from_dict(
        {"input_ids": [[1] * 4, [1] * 9, [1] * 5], "labels": [[1] * 4, [1] * 9, [-100] * 4 + [1]]}
    )
    assert audit.rank_worst(rows) == [1, 2, 0]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(split="tset"), "--split tset: the data has the splits train, validation"),
        (Choice(row=48), "--row 48: train has the rows 0 to 47"),
        (Choice(row=-1), "--row -1: train has the rows"),
        (Choice(source="web"), "--source web: the rows come from one source"),
    ],
)
def test_a_row_that_is_not_there_is_refused(chats, choice, message):
    with pytest.raises(UserError, match=message):
        preview.shown(chats, choice)


def test_rows_of_one_source_are_chosen_by_its_name():
    rows = SimpleNamespace(by_source={"web": np.asarray([0, 2]), "books": np.asarray([1])})
    assert preview._of_source(rows, [2, 1, 0], "web") == [2, 0]
    with pytest.raises(UserError, match=r"the rows come from books, web\. Did you mean books\?"):
        preview._of_source(rows, range(3), "boks")


@pytest.mark.parametrize("row", [{"position_ids": [0, 1, 2, 0, 1, 0]}, {"seq_lengths": [3, 2, 1]}])
def test_documents_of_a_packed_row_are_told_apart(row):
    assert preview.beginnings(row) == dict.fromkeys((3, 5), preview.DOCUMENT)


@pytest.mark.parametrize(
    ("task", "names"), [("preference", ["chosen", "rejected"]), ("kto", ["desirable", "undesirable"])]
)
def test_the_answers_of_a_pair_are_told_apart_by_what_they_are(task, names):
    with own_caches():
        (row,) = preview.shown(prepare(config(prefer(task))), Choice(row=0))
    assert [unit.begins for unit in row.units if unit.begins] == names
    assert {unit.role for unit in row.units if unit.is_trained} == {"assistant"}


class Parsed(HTMLParser):
    """The tags and the text of a page; every tag that is opened must be one of ours."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.outside = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.outside += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_escapes_everything_and_loads_nothing(evil, tmp_path):
    rows = preview.shown(evil, Choice(count=5))
    report.write(evil, Choice(), rows, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    parsed = Parsed(text)
    assert "script" not in parsed.tags
    assert parsed.outside == []
    assert "url(" not in text
    assert "<script>alert(1)" in "".join(parsed.words).replace("⏎\n", "\n")
    assert "猫" in text


def test_the_page_marks_what_is_trained_and_shows_the_numbers(evil, tmp_path):
    report.write(evil, Choice(), preview.shown(evil, Choice()), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    for heading in ("tokens of a row", "trained tokens by role", "ends of turns", "repeated rows"):
        assert f"<h2>{heading}</h2>" in text
    assert text.count("<i class=t") == sum(
        unit.is_trained for row in preview.shown(evil, Choice()) for unit in row.units
    )
    assert "2 of 2 (100.0%)" in text


def test_a_seam_is_drawn_between_documents():
    units = [preview.Unit(word, (1,), "user", False, "next document" * (word == "b")) for word in "ab"]
    text = page.page("t", "s", [], [preview.Shown(0, units, 2, 0, None)])
    assert text.count("<div class=seam>") == 1


def test_a_page_that_cannot_be_written_is_refused(chats, tmp_path):
    with pytest.raises(UserError, match=r"--html .*: No such file or directory"):
        report.write(chats, Choice(), [], tmp_path / "nowhere" / "page.html")


def test_the_page_of_packed_rows_says_how_full_they_are(tmp_path):
    with own_caches():
        packed = prepare(config([*chat(), "packing=best_fit"]))
    report.write(packed, Choice(), [], tmp_path / "page.html")
    words = Parsed((tmp_path / "page.html").read_text(encoding="utf-8")).words
    found = packed.report["train"]
    assert "tokens of a document" in words
    shown = words[words.index("packing") + 1 :][:6]
    assert shown == [
        "documents",
        str(found["kept"]),
        "packed rows",
        str(found["rows"]),
        "full",
        f"{found['packed']['fill']:.2%}",
    ]


def test_the_verb_shows_one_row_and_writes_the_page(tmp_path, capsys):
    assert finetune("data", *chat(), "--row", "2", "--html", str(tmp_path / "page.html")) == 0
    out = capsys.readouterr().out
    assert "── train row 2," in out
    assert "── train row 0," not in out
    assert "⟦one " in out
    assert "<b>row 2</b>" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_verb_shows_the_label_of_a_text(capsys):
    assert finetune("data", *classify(), "--worst", "--rows", "1") == 0
    out = capsys.readouterr().out
    assert "label: " in out
    assert "labels: animal 16, plant 16, stone 16" in out
