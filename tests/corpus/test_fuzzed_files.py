"""Random texts, cells, files and tries: readers stop in one line or give clean rows, and tokens stay what they are."""

import contextlib
import csv
import io
import json
import unicodedata

import openpyxl
import pytest
from byte_tokenizer import CONTROL, make_byte_tokenizer
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from small_models import build_model

import prepare_data
import prompts
from stance.corpus import annotations, cleaning
from stance.model import chat

# derandomize: a run repeats the last one, so that a red test stays red until it is mended
settings.register_profile("fixed", derandomize=True, deadline=None, database=None, max_examples=150)
settings.load_profile("fixed")
SLOW = settings(
    max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

PIECES = [
    *CONTROL, "```", "{topic}", "{sentence}", "stance:", "\n", " ", "_x000D_", "\ue000", "\u202e", "\u2067", "e\u0301",
    "👩‍👩‍👧",
]  # fmt: skip
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=8)), max_size=12).map("".join)
SPELLINGS = [
    *prompts.LABEL_OF_SPELLING,
    *(spelling.upper() for spelling in prompts.LABEL_OF_SPELLING),
]
INVISIBLE = "".join(
    chr(code) for code, kept in cleaning.CLEANING.items() if kept is None and code < 0xD800
)


# ---------------------------------------------------------------- prompts


@pytest.fixture(scope="module", params=["bytes", pytest.param("gemma", marks=pytest.mark.gated)])
def tokenizer(request):
    return (
        make_byte_tokenizer()
        if request.param == "bytes"
        else request.getfixturevalue("gemma_tokenizer")
    )


@pytest.mark.slow
@given(TEXT, TEXT)
@example("{sentence}", "{topic}")
def test_texts_go_into_the_prompt_as_they_are(topic, sentence):
    before, _, rest = prompts.PROMPT_TEMPLATE.partition("{topic}")
    between, _, after = rest.partition("{sentence}")
    assert prompts.build_prompt(topic, sentence) == before + topic + between + sentence + after


@pytest.mark.slow
@settings(SLOW, max_examples=100)
@given(
    topic=TEXT,
    sentence=TEXT,
    label=st.sampled_from(prompts.LABELS),
    copies=st.sampled_from([1, 1, 1, 300]),
)
def test_no_text_changes_control_tokens_or_the_answer(tokenizer, topic, sentence, label, copies):
    sentence *= copies
    ids = chat.encode_example(tokenizer, topic, sentence)
    control = {token: tokenizer.convert_tokens_to_ids(token) for token in CONTROL}
    counts = {token: ids.count(id) for token, id in control.items()}
    assert counts == {
        **dict.fromkeys(CONTROL, 0),
        "<bos>": 1,
        "<start_of_turn>": 2,
        "<end_of_turn>": 1,
    }
    assert ids[0] == control["<bos>"] and len(ids) <= chat.MAX_PROMPT_TOKENS
    word = tokenizer(label, add_special_tokens=False)["input_ids"]
    assert chat.encode_example(tokenizer, topic, sentence, label) == [
        *ids,
        *word,
        control["<end_of_turn>"],
    ]
    turn = prompts.build_prompt(topic, chat.fit_sentence(tokenizer, topic, sentence))
    assert (
        tokenizer.decode(ids)
        == f"<bos><start_of_turn>user\n{turn}<end_of_turn>\n<start_of_turn>model\n"
    )


@pytest.mark.slow
@given(
    st.one_of(TEXT, st.none(), st.integers(), st.floats(), st.booleans()),
    st.sampled_from(SPELLINGS),
)
def test_stances_are_labels_or_unknown(value, spelling):
    label = prompts.parse_stance(value)
    assert (
        label is None or " ".join(str(value).split()).casefold() in prompts.STANCE_SPELLINGS[label]
    )
    assert prompts.parse_stance(f" \t{spelling}\n") == prompts.LABEL_OF_SPELLING[spelling.lower()]
    assert prompts.parse_stance(spelling + "!") is None


@given(
    TEXT,
    st.sampled_from(sorted(prompts.REPLY_WORDS)),
    st.sampled_from(["", " ", "\n", "`", "```", "**", '"', "."]),
)
def test_replies_are_one_label_word_or_none(reply, word, around):
    label = prompts.parse_label(reply)
    assert (
        label is None or reply.casefold().strip("`'\"*.!:;,()[] \n\r\t\f\v") in prompts.REPLY_WORDS
    )
    assert prompts.parse_label(f" {around}{word.upper()}{around}\n") == prompts.REPLY_WORDS[word]
    assert prompts.parse_label(f"{word} {word}") is None


# ---------------------------------------------------------------- texts


@given(st.one_of(TEXT, st.text()))
def test_clean_text_is_clean(text):
    clean = cleaning.clean_text(text)
    assert cleaning.clean_text(clean) == clean == clean.strip()
    assert not any(unicodedata.category(char) in ("Cc", "Cs") and char != "\n" for char in clean)
    assert unicodedata.is_normalized("NFC", clean) and not set(clean) & set(INVISIBLE)


@given(st.text())
def test_a_key_is_there_and_the_same_however_it_is_written(text):
    text = cleaning.clean_text(text)
    assume(any(map(str.isalnum, text)))
    key = cleaning.normalise_key(text)
    assert key and cleaning.normalise_key(f"« {text}»\n!") == key
    assert cleaning.normalise_key(unicodedata.normalize("NFD", text)) == key


# ---------------------------------------------------------------- files

CELL = st.one_of(
    TEXT, st.none(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(),
    st.datetimes(), st.sampled_from(["#N/A", "=1+1", "nan", "NA", "None", *SPELLINGS]),
)  # fmt: skip
GOOD_ROW = st.tuples(
    st.just("Vegans are right."), st.text("abc 12é", min_size=1), st.sampled_from(SPELLINGS)
)
ROWS = st.lists(st.one_of(GOOD_ROW, st.lists(CELL, max_size=5)), max_size=6)
HEADER = ["topic", "text", "stance"]


def write_workbook(path, rows):
    book = openpyxl.Workbook()
    illegal = openpyxl.cell.cell.ILLEGAL_CHARACTERS_RE
    for row in rows:
        book.active.append(
            [illegal.sub("", cell) if isinstance(cell, str) else cell for cell in row]
        )
    book.save(path)


def write_csv(path, rows):
    with open(path, "w", encoding="utf-8", errors="surrogatepass", newline="") as file:
        csv.writer(file).writerows(rows)


def write_jsonl(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(dict(zip(rows[0], row)), default=str) + "\n" for row in rows[1:])


def stop_or_return(read, *words):
    """Return what read returns, or None if it stopped in one line with exit code 2. Any other error fails the test."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            return read(*words)
        except SystemExit as stopped:
            message = errors.getvalue()
            assert (
                stopped.code == 2 and message.startswith("error: ") and message.count("\n") == 1
            ), message
            return None


@settings(SLOW)
@given(rows=ROWS, suffix=st.sampled_from([".xlsx", ".csv", ".jsonl"]))
def test_any_cells_give_clean_rows_or_one_line(tmp_path_factory, rows, suffix):
    path = tmp_path_factory.mktemp("fuzz") / f"c{suffix}"
    {".xlsx": write_workbook, ".csv": write_csv, ".jsonl": write_jsonl}[suffix](
        path, [HEADER, *rows]
    )
    found = stop_or_return(annotations.read_corpus, path)
    for row in found or []:
        assert (
            row["label"] in prompts.LABELS and prompts.parse_stance(row["stance"]) == row["label"]
        )
        assert row["topic"] and row["text"] and cleaning.clean_text(row["text"]) == row["text"]
        assert 0 < row["row"] <= len(rows) + 1
    if all(isinstance(row, tuple) and cleaning.clean_text(row[1]) for row in rows) and rows:
        assert [row["text"] for row in found] == [cleaning.clean_text(row[1]) for row in rows]


@settings(SLOW)
@given(rows=ROWS)
def test_any_cells_can_be_checked(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("fuzz") / "c.xlsx"
    write_workbook(path, [HEADER, *rows])
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stopped,
    ):
        prepare_data.main(["--corpus", str(path), "--check"])
    assert stopped.value.code == 2
    assert ", 0 problems, " not in out.getvalue() or "usable rows, 30 are needed" in err.getvalue()


@settings(SLOW, max_examples=100)
@given(data=st.data(), suffix=st.sampled_from([".xlsx", ".csv", ".jsonl", ".tsv"]))
def test_any_damage_to_a_file_stops_in_one_line(tmp_path_factory, data, suffix):
    folder = tmp_path_factory.mktemp("fuzz")
    kind = {".xlsx": write_workbook, ".jsonl": write_jsonl}.get(suffix, write_csv)
    kind(
        folder / f"c{suffix}",
        [HEADER, *(["Vegans are right.", f"Sentence {i}.", "Pro"] for i in range(8))],
    )
    content = bytearray((folder / f"c{suffix}").read_bytes())
    # Shares of the file, not positions: workbooks hold the time, so their size is not always the same.
    shares = st.integers(0, 10_000)
    for _ in range(data.draw(st.integers(0, 8))):
        position = data.draw(shares) * (len(content) - 1) // 10_000
        content[position] = data.draw(st.integers(0, 255))
    kept = data.draw(shares) * len(content) // 10_000
    (folder / f"c{suffix}").write_bytes(content[:kept])
    for row in stop_or_return(annotations.read_corpus, folder / f"c{suffix}") or []:
        assert row["label"] in prompts.LABELS


@given(st.binary(max_size=300), st.sampled_from([".xlsx", ".csv", ".jsonl", ".tsv"]))
@settings(SLOW, max_examples=100)
def test_any_bytes_stop_in_one_line(tmp_path_factory, content, suffix):
    path = tmp_path_factory.mktemp("fuzz") / f"c{suffix}"
    path.write_bytes(content)
    assert stop_or_return(annotations.read_corpus, path) is None


# ---------------------------------------------------------------- trees


@pytest.fixture(scope="module")
def model():
    return build_model()


SEQUENCE = st.lists(
    st.integers(3, 6), min_size=1, max_size=12
)  # few tokens, so that prefixes are shared
BATCH = st.lists(
    st.tuples(st.sampled_from([[], [3, 4, 5], [3, 4, 5, 6, 6] * 4]), SEQUENCE),
    min_size=1,
    max_size=12,
)


@settings(SLOW, max_examples=12)
@given(parts=BATCH)
def test_any_tree_gives_the_logits_of_the_flat_batch(model, flat_logits, parts):
    import torch

    from stance.tree import prefix_tree

    sequences = [prefix + rest for prefix, rest in parts]
    tree = prefix_tree.merge_prefixes(sequences, pad_id=0)
    for sequence, nodes in zip(sequences, tree.nodes, strict=True):
        assert [tree.ids[node] for node in nodes] == sequence
        assert [tree.depth[node] for node in nodes] == list(range(len(sequence)))
    logits_to_keep = torch.tensor([node for nodes in tree.nodes for node in nodes])
    model.set_attn_implementation(prefix_tree.ATTENTION)
    with torch.no_grad():
        found = prefix_tree.forward_tree(
            model, model.config, prefix_tree.tree_inputs(tree), logits_to_keep
        )
    model.set_attn_implementation("eager")
    expected = torch.cat([flat_logits(model, sequence) for sequence in sequences])
    assert (found - expected).abs().max() <= 1e-4
