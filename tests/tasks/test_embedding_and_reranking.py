"""Tasks over several texts of a row: vectors that are compared, and pairs that are read together.

Each is trained, verified and asked by the command line's own path, and opened by sentence-transformers alone.
"""

import json
import shutil
import sys
from functools import cache

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sklearn.metrics import average_precision_score, ndcg_score
from tiny_runs import LABELS, LORA, bert, config, finetune, llama, own_caches, root, worked
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from finetune.artifacts import card, verify
from finetune.artifacts.predict import answering
from finetune.config import options
from finetune.data import joined
from finetune.data.prepare import prepare
from finetune.data.preview import Choice, shown
from finetune.errors import FinetuneError, MissingExtra, UserError
from finetune.evaluation import metrics, ranking
from finetune.models.pairs import Joint, fitting
from finetune.models.source import Source
from finetune.plan import frozen
from finetune.tasks import losses, rankings
from finetune.tasks.reranking import Reranking
from finetune.tasks.sentence_embedding import SentenceEmbedding
from finetune.training import order

ANIMALS, PLANTS = LABELS["animal"].split(), LABELS["plant"].split()
QLORA = ("adapter=qlora", "adapter.lora_dropout=0")


def rows(layout, count):
    """Two words of a kind belong together."""
    found = []
    for at in range(count):
        own, other = (ANIMALS, PLANTS) if at % 2 else (PLANTS, ANIMALS)
        first, second, third = f"the {own[at % 4]}", own[(at + 1 + at // 4 % 3) % 4], other[at % 4]
        pair = third if at % 3 == 0 else second
        found.append(
            {
                "triplet": {"anchor": first, "positive": second, "negative": third},
                "scored": {"sentence1": first, "sentence2": pair, "score": 0.5 if at % 3 == 0 else 4.5},
                "labelled": {"query": first, "document": pair, "label": int(at % 3 > 0)},
                "candidates": {"query": first, "passages": {"text": [third, second, "ore"][: 2 + at % 2],
                                                            "relevant": [0, 1, 0][: 2 + at % 2]}},
            }[layout]
        )  # fmt: skip
    return found


def written(folder, found):
    """A file of rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, some in found.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return folder


def recipe(task, layout, *more):
    folder = written(root() / "texts" / layout, {"train": rows(layout, 48), "validation": rows(layout, 12)})
    nested = ["dataset.columns={documents: passages.text, labels: passages.relevant}"] * (layout == "candidates")
    trainer = ["per_device_train_batch_size=8", "learning_rate=1e-2", "max_steps=30", "logging_steps=10"]
    given = [f"task={task}", f"model.path={bert()}", f"dataset.path={folder}", f"name={task}_{layout}"]
    return [*given, "precision=fp32", *nested, *(f"trainer.{each}" for each in trainer), *more]


KINDS = {
    "triplet": ("sentence_embedding", "triplet", ("trainer.batch_sampler=no_duplicates",)),
    "scored_lora": ("sentence_embedding", "scored", LORA),
    "candidates": ("reranking", "candidates", ("task.loss=ListNetLoss",)),
    "labelled_lora": ("reranking", "labelled", LORA),
    "labelled_qlora": ("reranking", "labelled", (*QLORA, "trainer.max_steps=4")),
}


@cache
def trained(kind):
    task, layout, more = KINDS[kind]
    return worked(recipe(task, layout, *more, f"name={kind}"), root() / "runs")


def answers(kind, inputs):
    return list(answering(trained(kind), {})(inputs))


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_model_is_verified_and_better_than_the_untouched_one(kind):
    folder = trained(kind)
    found = folder.read("evaluation.json")
    assert found["scores"]["loss"] < found["baseline"]["loss"]
    name, greater = found["score"]
    if "qlora" not in kind:
        assert greater
        assert found["scores"][name] > found["baseline"][name]
    with own_caches():
        assert all(finding.passed for finding in verify.compare(folder))


@pytest.mark.parametrize("kind", ["triplet", "scored_lora"])
def test_vectors_are_those_that_sentence_transformers_gives(kind):
    from sentence_transformers import SentenceTransformer

    (vector, pair) = answers(kind, ["the cat", ["the cat", "dog"]])
    model = SentenceTransformer(str(trained(kind).model))
    assert np.abs(model.encode("the cat") - np.array(vector["embedding"])).max() < 1e-6
    one, other = model.encode(["the cat", "dog"], normalize_embeddings=True)
    assert pair["similarity"] == pytest.approx(float(one @ other), abs=1e-4)
    assert model.max_seq_length == 32


@pytest.mark.parametrize("kind", ["candidates", "labelled_lora"])
def test_scores_are_those_that_a_cross_encoder_gives(kind):
    (pair, ranked) = answers(kind, [["the cat", "dog"], {"query": "the cat", "documents": ["oak", "dog"]}])
    model = CrossEncoder(str(trained(kind).model))
    assert pair["score"] == pytest.approx(float(model.predict([("the cat", "dog")])[0]), abs=1e-4)
    assert {each["document"] for each in ranked["ranking"]} == {"oak", "dog"}
    assert ranked["ranking"][0]["score"] >= ranked["ranking"][1]["score"]


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("triplet", 3),
        ("triplet", ["a", "b", "c"]),
        ("triplet", {"other": "the cat"}),
        ("triplet", "  "),
        ("candidates", "a text alone"),
        ("candidates", {"query": 5, "documents": ["oak"]}),
        ("candidates", {"query": "the cat", "documents": "oak"}),
        ("candidates", {"query": "the cat", "documents": []}),
    ],
)
def test_an_input_that_cannot_be_asked_is_refused_by_number(kind, wrong):
    with pytest.raises(UserError, match="input 0: "):
        answers(kind, [wrong])


PROMPTED = {
    "labelled": ("document", {"query": "ox", "document": "dog", "label": 1}),
    "scored": ("document", {"query": "ox", "document": "dog", "score": 0.5}),
    "pair": ("positive", {"query": "ox", "positive": "dog"}),
    "triplet": ("positive", {"query": "ox", "positive": "dog", "negative": "oak"}),
    "candidates": ("documents", {"query": "ox", "documents": ["dog", "oak"], "labels": [1, 0]}),
}


@pytest.mark.parametrize("layout", PROMPTED)
def test_a_pair_is_scored_with_the_prompts_it_was_trained_with_however_it_is_asked(layout):
    role, row = PROMPTED[layout]
    prompts = {"query": "the ", **dict.fromkeys({role, "negative"} & row.keys(), "rice ")}
    torch.manual_seed(0)
    model, task = CrossEncoder(str(bert()), num_labels=1), Reranking(prompts=prompts)
    facts = task.describe(Dataset.from_list([row]), {})
    texts, _ = task.read(row, 0, facts)
    assert texts == ["the ox", "rice dog", "rice oak"][: len(texts)]

    listed = {"query": "ox", "documents": ["oak", "dog"]}
    single = [] if layout == "candidates" else [{"query": "ox", role: "dog"}]
    *pairs, ranked = task.predict(model, None, [["ox", "dog"], *single, listed], {"columns": facts["columns"]})
    ranking = {each["document"]: each["score"] for each in ranked["ranking"]}
    expected, other = (
        round(float(each), 4) for each in model.predict([("the ox", "rice dog"), ("the ox", "rice oak")])
    )
    assert [pair["score"] for pair in pairs] == [expected] * len(pairs)
    assert ranking == pytest.approx({"dog": expected, "oak": other}, abs=1e-4)


def test_a_prompt_that_tells_the_positive_from_the_negative_is_refused():
    task = Reranking(prompts={"positive": "rice "})
    with pytest.raises(UserError, match="Write the same for both"):
        task.describe(Dataset.from_list([PROMPTED["triplet"][1]]), {})


@pytest.mark.parametrize("task", [SentenceEmbedding(pooling="mean"), Reranking()])
def test_texts_are_asked_as_they_were_trained_also_where_the_tokenizer_has_a_chat_template(task, tmp_path):
    import sentence_transformers

    words = AutoTokenizer.from_pretrained(llama())
    assert words.chat_template
    kind, texts = {"reranking": (AutoModelForSequenceClassification, ["ox", "cat"])}.get(
        task.name, (AutoModel, ["ox"])
    )
    whole = task.around(kind.from_pretrained(llama(), num_labels=1), Source(str(llama())), words, 32)
    whole.save(str(tmp_path))
    saved = getattr(sentence_transformers, task.opened_by.rpartition(".")[2])(str(tmp_path))
    asked = tuple(texts) if len(texts) > 1 else texts[0]
    found = [each.preprocess([asked])["input_ids"][0].tolist() for each in (whole, saved)]
    assert found == [words(*texts)["input_ids"]] * 2


@cache
def with_dense():
    """A sentence-transformers folder with weights beside the transformer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    torch.manual_seed(0)
    words = Transformer(str(bert()))
    folder = root() / "dense"
    SentenceTransformer(modules=[words, Pooling(16, "cls"), Dense(16, 8)], device="cpu").save(str(folder))
    return folder


@pytest.mark.parametrize("adapter", [(), LORA])
def test_a_run_that_goes_on_ends_with_the_same_bits_also_of_weights_beside_the_transformer(adapter):
    name = "lora" if adapter else "full"
    short = ("trainer.max_steps=4", "trainer.save_steps=2", "trainer.save_strategy=steps", *adapter)
    mine = recipe("sentence_embedding", "triplet", *short, f"model.path={with_dense()}", "evaluation.baseline=false")
    whole = worked([*mine, f"name=whole_{name}"], root() / "runs")
    parent = whole / "checkpoints" / "checkpoint-2"
    again = worked([*mine, f"name=again_{name}", f"trainer.resume_from_checkpoint={parent}"], root() / "runs")
    files = [path.relative_to(whole.model) for path in whole.model.rglob("*.safetensors")]
    assert len(files) == 2
    for file in files:
        assert (whole.model / file).read_bytes() == (again.model / file).read_bytes()
    with own_caches():
        assert all(finding.passed for finding in verify.compare(again))
    untouched = (with_dense() / "2_Dense" / "model.safetensors").read_bytes()
    assert (again.model / "2_Dense" / "model.safetensors").read_bytes() != untouched


def test_modules_that_are_code_of_their_own_or_pool_otherwise_are_refused(tmp_path):
    folder = shutil.copytree(with_dense(), tmp_path / "own")
    words, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    with pytest.raises(UserError, match=r"task.pooling=mean: .* pools by cls"):
        SentenceEmbedding(pooling="mean").around(model, Source(str(folder)), words, 32)
    with pytest.raises(UserError, match="9 is more than the 8 dimensions"):
        SentenceEmbedding(matryoshka_dims=[9]).around(model, Source(str(folder)), words, 32)
    kinds = json.loads((folder / "modules.json").read_text())
    kinds[2]["type"] = "mine.Module"
    (folder / "modules.json").write_text(json.dumps(kinds))
    with pytest.raises(UserError, match="sentence-transformers cannot open it"):
        SentenceEmbedding().around(model, Source(str(folder)), words, 32)


def test_the_card_says_how_sentence_transformers_opens_the_model(tmp_path):
    folder = trained("labelled_qlora")
    card.write(frozen.read(folder), folder, "me/model", tmp_path / "README.md")
    text = (tmp_path / "README.md").read_text()
    assert "library_name: sentence-transformers" in text
    assert 'CrossEncoder("me/model", model_kwargs={"quantization_config": BitsAndBytesConfig(' in text


def test_a_library_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtra, match=r"\[embeddings\]") as error:
        options.resolve("sentence_transformers.SentenceTransformerTrainer")
    assert error.value.exit_code == 3


# Rows


def read(task, found, *more):
    """The prepared rows of a file."""
    folder = written(root() / "texts" / "read", {"train": found, "validation": found})
    with own_caches():
        return prepare(config([f"task={task}", f"model.path={bert()}", f"dataset.path={folder}",
                               "dataset.max_dropped=0.9", *more]))  # fmt: skip


PAIR = {"anchor": "the cat", "positive": "dog"}
SCORED = {"sentence1": "the cat", "sentence2": "dog", "score": 3.0}
RANKED = {"query": "the cat", "documents": ["dog", "oak"], "labels": [1, 0]}


@pytest.mark.parametrize(
    ("task", "row", "more", "reason"),
    [
        ("sentence_embedding", {"text": "the cat"}, (), "none of the layouts"),
        ("sentence_embedding", PAIR, ("task.loss=CoSENTLoss",), "learns from rows that are scored"),
        ("sentence_embedding", PAIR, ("task.loss=MultipleNegativeRankingLoss",), "Did you mean MultipleNegatives"),
        ("sentence_embedding", PAIR, ("task.loss_options={scales: 2}",), "Did you mean scale"),
        ("sentence_embedding", PAIR, ("task.loss_options={scale: much}",), "'much' is not of type 'number'"),
        ("sentence_embedding", PAIR, ("task.loss_options={similarity_fct: os_system}",), "no such function"),
        ("sentence_embedding", PAIR, ("task.prompts={query: 'q: '}",), "task.prompts.query: rows are pair"),
        ("sentence_embedding", PAIR, ("task.score_range=[0, 5]",), "nothing reads it, because rows are pair"),
        ("sentence_embedding", PAIR, ("dataset.columns.anchor=question",), "dataset.columns.anchor=question"),
        ("sentence_embedding", SCORED, ("task.loss=CosineSimilarityLoss",), r"row 0: .* the loss takes 0 to 1"),
        ("sentence_embedding", SCORED, ("task.score_range=[5, 0]",), "the least and the most score"),
        ("sentence_embedding", SCORED, ("task.score_range=[0, 2]",), "task.score_range is 0 to 2"),
        ("sentence_embedding", SCORED | {"score": "high"}, (), "row 0: score holds 'high', where a number"),
        ("sentence_embedding", {"sentence1": "a", "sentence2": "b", "label": 2}, (), "A label is 1 where"),
        ("reranking", {"query": "the cat"}, (), "none of the layouts"),
        ("reranking", RANKED | {"labels": [1]}, (), "row 0: documents and labels are not lists of one length"),
        ("reranking", RANKED | {"documents": "dog"}, (), "row 0: documents and labels are not lists of one length"),
        ("reranking", RANKED | {"labels": [3, 0]}, (), r"row 0: labels holds 3\.0. A label is 1 where"),
        (
            "reranking",
            {"query": "a", "document": "b", "label": 1},
            ("task.loss=LambdaLoss",),
            "rows that are candidates",
        ),
        ("reranking", {"query": "a", "document": "b", "score": 3.0}, (), "Write the least and the most score"),
    ],
)
def test_rows_and_options_that_do_not_fit_are_refused_before_training(task, row, more, reason):
    with pytest.raises(FinetuneError, match=reason) as error:
        read(task, [row] * 4, *more)
    assert error.value.exit_code == 2


def test_a_refusal_reaches_the_command_line_in_one_message(capsys):
    assert finetune("train", *recipe("sentence_embedding", "triplet", "task.loss=CoSENTLoss")) == 2
    found = capsys.readouterr()
    assert "task.loss=CoSENTLoss learns from rows that are scored" in found.err + found.out
    assert "Traceback" not in found.err + found.out


def test_rows_that_say_nothing_are_dropped_and_counted():
    texts = [{"anchor": "the cat", "positive": text} for text in ("dog", "", None, " ")]
    dropped = {
        why: entry["rows"] for why, entry in read("sentence_embedding", texts).report["train"]["dropped"].items()
    }
    assert dropped == {"no text in positive": 3}
    scores = [SCORED, SCORED | {"score": None}]
    assert "no number in score" in read("sentence_embedding", scores).report["train"]["dropped"]
    empty = [RANKED, RANKED | {"documents": [], "labels": []}]
    assert "no candidates" in read("reranking", empty).report["train"]["dropped"]


def test_what_is_cut_is_counted_prompts_are_put_before_and_the_layout_is_shown():
    long = [{"anchor": "the cat", "positive": "dog " * 40}, PAIR]
    found = read("sentence_embedding", long, "task.prompts={anchor: 'cow '}", "tokenizer.max_length=8")
    assert found.report["train"]["notes"]["truncated"] == 1
    assert found.facts == {"layout": "pair", "columns": {"anchor": "anchor", "positive": "positive"}}
    first, second = (found.rows("train")[at] for at in (0, 1))
    assert first["texts"] == [5, 8]
    assert second["texts"] == [5, 3]
    assert found.tokenizer.decode(list(second["input_ids"])) == "[CLS] cow the cat [SEP] [CLS] dog [SEP]"


@pytest.mark.parametrize(("words", "cut"), [(6, 0), (7, 1)])
def test_a_pair_that_is_cut_where_it_is_joined_is_counted(words, cut):
    """Seven words of a query, some of a document and three special tokens."""
    query, document = "cat " * 7, "dog " * words
    pair = {"query": query, "document": document, "label": 1}
    found = read("reranking", [pair, pair | {"document": "dog", "label": 0}], "tokenizer.max_length=16")
    assert found.report["train"]["notes"].get("truncated", 0) == cut
    ranked = {"query": query, "documents": ["oak", document], "labels": [0, 1]}
    found = read("reranking", [ranked, RANKED], "tokenizer.max_length=16")
    assert found.report["train"]["notes"].get("truncated", 0) == cut


def test_the_audit_knows_scores_and_the_labels_of_candidates():
    scored = read("sentence_embedding", [SCORED, SCORED | {"score": 1.0}])
    assert scored.report["train"]["audit"]["labels"] == {"least": 1.0, "mean": 2.0, "most": 3.0}
    ranked = read("reranking", [RANKED])
    assert ranked.report["train"]["audit"]["labels"] == {"least": 0.0, "mean": 0.5, "most": 1.0}
    with own_caches():
        (row,) = shown(ranked, Choice(count=1))
    assert row.label == "1, 0"
    assert [unit.begins for unit in row.units if unit.begins] == ["query", "documents", "documents"]
    assert [unit.text for unit in row.units] == ["the", " cat", "dog", "oak"]


@pytest.mark.parametrize("task", ["sentence_embedding", "reranking"])
def test_texts_are_shown_by_what_they_are(task):
    first = {"sentence_embedding": "anchor", "reranking": "query"}[task]
    prepared = read(task, [{first: "cat", "positive": "dog", "negative": "oak"}] * 2)
    with own_caches():
        (row, *_) = shown(prepared, Choice(count=1))
    said, role = {}, ""
    for unit in row.units:
        role = unit.begins or role
        said[role] = said.get(role, "") + unit.text
    assert {role: text.strip("[]CLSEP ") for role, text in said.items()} == {
        first: "cat",
        "positive": "dog",
        "negative": "oak",
    }


@pytest.mark.parametrize("task", ["sentence_embedding", "reranking"])
def test_rows_are_made_up_in_the_layout_that_the_columns_name(task):
    task = {"sentence_embedding": SentenceEmbedding, "reranking": Reranking}[task]()
    for layout, roles in task.family.layouts.items():
        made = task.example({role: f"my_{role}" for role in roles})
        assert {f"my_{role}" for role in roles} == made[0].keys()
        assert len(task.read(made[0], 0, {"layout": layout, "columns": {role: f"my_{role}" for role in roles}})[0]) > 1


# Losses


@pytest.mark.parametrize("task", [SentenceEmbedding(), Reranking()])
def test_every_loss_that_is_offered_is_one_of_the_library_and_every_layout_has_a_default(task):
    for name in task.family.fits:
        losses.check(f"{task.family.module}.{name}", {})
    defaults = {layout: task.family.path(None, layout).rpartition(".")[2] for layout in task.family.layouts}
    assert all(layout in task.family.fits[name] for layout, name in defaults.items())
    assert task.roles == task.family.roles


def test_a_function_of_the_library_is_chosen_by_its_name():
    path = "sentence_transformers.sentence_transformer.losses.TripletLoss"
    made = losses.build(path, {"distance_metric": "COSINE", "triplet_margin": 0.5})(torch.nn.Linear(2, 2))
    near, far = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert float(made.distance_metric(near, far)) == pytest.approx(1.0)


# Pairs


@pytest.mark.parametrize(("first", "second"), [(2, 3), (3, 40), (40, 3), (40, 50), (50, 40), (29, 2)])
def test_a_pair_of_tokens_is_put_together_and_cut_as_the_tokenizer_does_it(first, second):
    words = AutoTokenizer.from_pretrained(bert())
    texts = " ".join(["cat"] * first), " ".join(["dog"] * second)
    expected = words(*texts, truncation="longest_first", max_length=32)
    made = Joint.of(words)(*(words(text, add_special_tokens=False)["input_ids"] for text in texts), 32)
    assert made == {name: expected[name] for name in ("input_ids", "token_type_ids")}


def test_what_fits_is_not_cut():
    assert fitting(3, 4, 7) == (3, 4)
    assert sum(fitting(9, 9, 7)) == 7


# Scores of rankings


def test_rankings_are_scored_as_scikit_learn_scores_them():
    rng = np.random.default_rng(0)
    scores, relevance = rng.normal(size=(20, 15)), rng.integers(0, 3, (20, 15)).astype(float)
    assert ranking.ndcg(10)(scores, relevance) == pytest.approx(ndcg_score(relevance, scores, k=10))
    labels = (rng.random(50) > 0.5).astype(float)
    numbers = rng.normal(size=50)
    assert ranking.average_precision(numbers, labels) == pytest.approx(average_precision_score(labels, numbers))


def test_ties_count_against_the_model_and_what_nobody_judged_is_no_error():
    found = metrics.compute(
        ["mrr@10", "recall@1", "pairwise_accuracy"], [[0.5, 0.5], [0.9, 0.1, 0.0]], [[1, 0], [-1, 1, 0]]
    )
    assert found == {"mrr@10": 0.5, "recall@1": 0.0, "pairwise_accuracy": 0.5}
    assert metrics.compute(["mrr@10"], [[0.5]], [[0]]) == {"mrr@10": 0.0}


def test_an_anchor_ranks_every_text_once_and_all_its_positives_are_right():
    vectors = np.array([[[1, 0], [0.9, 0.1]], [[1, 0], [0, 1]], [[0, 1], [0, 1]]], float)
    scores, relevance = rankings.of_vectors(vectors, np.array([[1, 7], [1, 8], [2, 8]]))
    assert relevance == [[1.0, 1.0], [1.0, -1.0]]
    assert scores[0][0] > scores[0][1]


def test_a_text_has_the_same_number_whatever_pads_it_and_another_text_another_one():
    ids = torch.randint(1, 30000, (20000, 2))
    mask = torch.ones_like(ids)
    padded = torch.nn.functional.pad(ids, (0, 3)), torch.nn.functional.pad(mask, (0, 3))
    assert torch.equal(rankings.fingerprints(ids, mask), rankings.fingerprints(*padded))
    assert len(rankings.fingerprints(ids, mask).unique()) == len(torch.unique(ids, dim=0))


# Order


def test_no_text_stands_twice_in_a_step_and_no_row_is_left_out():
    rng = np.random.default_rng(0)
    keys = [[int(a), int(b) + 1000] for a, b in zip(rng.integers(0, 60, 500), rng.integers(0, 300, 500), strict=True)]
    found = order.apart(order.shuffled, keys, 16)(500, 1, 0)
    assert sorted(found) == list(range(500))
    steps = [[key for row in found[at : at + 16] for key in keys[row]] for at in range(0, 480, 16)]
    assert all(len(step) == len(set(step)) for step in steps)


def test_the_same_text_has_the_same_identity_in_every_row():
    class Few:
        def __len__(self):
            return 2

        def __getitems__(self, _):
            return [{"input_ids": np.array([1, 2, 3]), "texts": np.array([1, 2])},
                    {"input_ids": np.array([2, 3, 1]), "texts": np.array([2, 1])}]  # fmt: skip

    first, second = joined.identities(Few())
    assert first == second[::-1]
