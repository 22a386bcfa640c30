"""tools/export.py: the merged model answers as base and adapter do, in plain transformers, and nothing is overwritten."""

import pytest
import safetensors.torch
import torch
import transformers
from stopping import stop_message

from stance.common import files
from stance.evaluation import licences
from stance.model import adapters, chat, loading, merging
from tools import export


@pytest.fixture(scope="module")
def merged(trained_run, data_dir, tmp_path_factory):
    """Folder of the merged model of the trained run."""
    folder = tmp_path_factory.mktemp("export") / "merged"
    export.main(
        ["--adapter", str(trained_run), "--data-dir", data_dir, "--output-dir", str(folder)]
    )
    return folder


def read_rows(data_dir):
    return files.read_jsonl(f"{data_dir}/test.jsonl", (), "")


def load_merged(folder):
    """The model and tokenizer of a folder, by transformers alone."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", attn_implementation="eager"
    )
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.slow
def test_merged_model_answers_as_base_and_adapter(
    merged, trained_run, tiny_model, data_dir, load_plain, flat_labels
):
    """The merged weights are bfloat16, so base and adapter compute in it too; labels stay."""
    model, tokenizer = load_merged(merged)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    encoded = chat.encode_examples(
        tokenizer, [(row["topic"], row["text"]) for row in read_rows(data_dir)]
    )
    plain, alone = (
        load_plain(tiny_model, adapter, torch.bfloat16) for adapter in (trained_run, None)
    )
    scored = [flat_labels(one, tokenizer, encoded)[0] for one in (model, plain, alone)]
    (found, tolerance), (expected, plain_tolerance), (base, _) = scored
    tolerance = max(tolerance, plain_tolerance)
    assert (base.argmax(1) != expected.argmax(1)).any()  # or the adapter might be missing
    assert (base - expected).abs().max() > 2 * tolerance and expected.std(0).min() > 2 * tolerance
    assert torch.equal(found.argmax(1), expected.argmax(1))
    assert (found - expected).abs().max() <= tolerance


def test_merging_into_original_weights_adds_the_adapter_to_them(merged, trained_run, tiny_model):
    adapted = adapters.load_adapter(loading.load_base(tiny_model), str(trained_run))
    original = merging.merge_adapter(adapted, tiny_model, "original").state_dict()
    rounded, start = (
        safetensors.torch.load_file(f"{folder}/model.safetensors")
        for folder in (merged, tiny_model)
    )
    adapter = safetensors.torch.load_file(trained_run / "adapter_model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{letter}.weight"] for letter in "AB")
    expected = (start[f"{name}.weight"].float() + 2 * b @ a).bfloat16()  # alpha / r = 2
    torch.testing.assert_close(original[f"{name}.weight"].cpu(), expected)
    assert (rounded[f"{name}.weight"] != expected).float().mean() > 0.5  # NF4 has 16 values
    for other in ("model.embed_tokens.weight", "model.norm.weight"):
        assert torch.equal(rounded[other], start[other])


@pytest.mark.slow
def test_the_record_says_how_far_answers_agree(
    merged, trained_run, tiny_model, data_dir, load_plain, flat_labels
):
    """Merged into the weights that were trained on, answers differ by rounding at most, or less than on others."""
    tokenizer = loading.load_tokenizer(tiny_model)
    encoded = chat.encode_examples(
        tokenizer, [(row["topic"], row["text"]) for row in read_rows(data_dir)]
    )
    (_, tolerance), _ = flat_labels(
        load_plain(tiny_model, trained_run, torch.bfloat16), tokenizer, encoded
    )
    record = files.read_json(merged / "export.json", "")
    assert record["merged_into"] == "rounded" and record["demo"] and loading.read_demo_note(merged)
    assert set(record["agreement"]) == {"rounded", "original"}
    rounded, original = (record["agreement"][kind] for kind in ("rounded", "original"))
    assert rounded["rows"] == 24 and rounded["same_label"] == 1
    most = max(
        original["largest_difference"], 2 * tolerance
    )  # weights are rounded beside what is computed
    assert rounded["largest_difference"] < most


def test_agreement_counts_labels_and_takes_the_largest_difference():
    def score(*rows):
        return export.scoring.Scores(
            torch.tensor(rows), torch.ones(len(rows)), torch.zeros(len(rows), 3), 1
        )

    one = score([0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.4, 0.3, 0.3])
    other = score([0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.2, 0.5, 0.3], [0.4, 0.3, 0.3])
    expected = {"rows": 4, "same_label": 0.75, "largest_difference": pytest.approx(0.3)}
    assert merging.compare_scores(one, other) == expected


def test_modelfile_and_prompt_give_the_trained_prompt(merged, data_dir):
    """Filled in as Ollama and its user do, they are the ids of training, after the <bos> that llama.cpp adds."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(merged)
    modelfile = (merged / "Modelfile").read_text()
    turn = modelfile.partition('TEMPLATE """')[2].partition('"""')[0]
    row = read_rows(data_dir)[0]
    text = (merged / "prompt.txt").read_text().format(topic=row["topic"], sentence=row["text"])
    ids = tokenizer(turn.replace("{{ .Prompt }}", text), add_special_tokens=False)["input_ids"]
    assert [tokenizer.bos_token_id, *ids] == chat.encode_example(
        tokenizer, row["topic"], row["text"]
    )
    assert modelfile.startswith("FROM ./model.gguf\n") and 'stop "<end_of_turn>"' in modelfile


def test_settings_of_sampling_are_not_exported(merged, tiny_model, tmp_path):
    """A server takes them for its own, as that of Qwen's repetition penalty."""
    model, tokenizer = load_merged(merged)
    eos = model.generation_config.eos_token_id
    model.generation_config.update(do_sample=True, temperature=0.7, repetition_penalty=1.05)
    merging.write_model(tmp_path / "merged", model, tokenizer, tiny_model, {"demo": False}, [], {})
    written = files.read_json(tmp_path / "merged" / "generation_config.json", "")
    assert eos == [1, 107] == written["eos_token_id"]
    assert not {"do_sample", "temperature", "repetition_penalty"} & set(written)


def test_a_notice_that_the_terms_ask_for_lies_beside_the_weights(tmp_path, tiny_model):
    notice = {licences.NOTICE_FILE: licences.GEMMA.notice}
    model, tokenizer = torch.nn.Module(), loading.load_tokenizer(tiny_model)
    model.generation_config = transformers.GenerationConfig()
    model.save_pretrained = lambda folder: None
    merging.write_model(
        tmp_path / "merged", model, tokenizer, tiny_model, {"demo": False}, [], notice
    )
    written = (tmp_path / "merged" / licences.NOTICE_FILE).read_text(encoding="utf-8")
    assert written == licences.GEMMA.notice and "Gemma Terms of Use" in written


def test_the_record_of_answers_holds_no_text(merged, data_dir):
    answers = files.read_jsonl(merged / "answers.jsonl", (), "")
    rows = files.read_jsonl(f"{data_dir}/val.jsonl", (), "")
    assert [answer["id"] for answer in answers] == [row["id"] for row in rows]
    assert all(set(answer) == {"id", "prompt_tokens", "probabilities"} for answer in answers)
    assert set(answers[0]["probabilities"]) == {"adapter", "rounded", "original"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(merged)
    for row, answer in zip(rows, answers, strict=True):
        ids = chat.encode_example(tokenizer, row["topic"], row["text"])
        assert answer["prompt_tokens"] == len(ids)
        assert sum(answer["probabilities"]["rounded"]) == pytest.approx(1, abs=1e-5)


def test_modelfile_of_the_real_tokenizer(gemma_tokenizer):
    assert (
        '"""<start_of_turn>user\n{{ .Prompt }}<end_of_turn>\n<start_of_turn>model\n"""'
        in merging.format_modelfile(gemma_tokenizer)
    )


@pytest.mark.parametrize("fault", ["folder in use", "disk full"])
def test_nothing_is_overwritten_and_the_disk_is_looked_at(
    trained_run, data_dir, tmp_path, monkeypatch, capsys, fault
):
    if fault == "disk full":
        usage = export.shutil._ntuple_diskusage(10, 10, 0)
        monkeypatch.setattr(export.shutil, "disk_usage", lambda path: usage)
    else:
        (tmp_path / "merged").mkdir()
        (tmp_path / "merged" / "mine").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        export.main(
            [
                "--adapter",
                str(trained_run),
                "--data-dir",
                data_dir,
                "--output-dir",
                str(tmp_path / "merged"),
            ]
        )
    message = capsys.readouterr().err
    assert stopped.value.code == 2 and message.count("\n") == 1
    assert ("make room" if fault == "disk full" else "is there already") in message
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("ending", [SystemExit(143), OSError(28, "No space left on device")])
def test_a_model_that_is_broken_off_leaves_nothing(tmp_path, ending):
    class Merged:
        generation_config = transformers.GenerationConfig()

        def save_pretrained(self, folder):
            assert list(folder.iterdir()) == []
            (folder / "model-00001-of-00002.safetensors").write_text("half")
            raise ending

    with pytest.raises(SystemExit) as ended:
        merging.write_model(tmp_path / "merged", Merged(), None, "base", {"demo": False}, [], {})
    assert ended.value.code == (143 if isinstance(ending, SystemExit) else 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["other base", "no GPU"])
def test_a_base_that_is_not_that_of_the_adapter_or_too_large_is_refused(
    trained_run, data_dir, tmp_path, monkeypatch, capsys, fault
):
    """Before any weights load."""
    monkeypatch.setattr(loading, "load_base", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if fault == "no GPU":
        monkeypatch.setattr(loading, "CPU_PARAMETER_LIMIT", 10)
    else:
        monkeypatch.setattr(loading.fingerprints, "fingerprint_base", lambda base: "another")
    words = [
        "--adapter",
        str(trained_run),
        "--data-dir",
        data_dir,
        "--output-dir",
        str(tmp_path / "merged"),
    ]
    message = stop_message(capsys, export.main, words)
    assert ("no CUDA GPU found" if fault == "no GPU" else "here it is another: ") in message
    assert list(tmp_path.iterdir()) == []
