"""planner.py: its memory is that of the committed records, its labelling plan follows from theirs."""

from pathlib import Path

import pytest

import planner
import training

TOLERANCE = 0.05  # of the recorded peak, as the README says
NODES_TOLERANCE = 0.1  # of the largest tree


@pytest.mark.parametrize("name, batch", [(f"ours-{n}", n) for n in (16, 32, 64, 128, 320)])
def test_memory_is_that_of_the_records(name, batch):
    """All had the memory for 16-bit copies and all activations."""
    found = planner.read_training()[name]
    assert found["plan"]["dense_weights"] and not found["plan"]["checkpoint"]
    estimate = planner.estimate_memory(planner.make_config("gemma-2-9b-it"), batch, dense=True, checkpoint=False)
    assert estimate == pytest.approx(found["peak_gib"], rel=TOLERANCE)


def test_memory_of_a_small_card_is_that_of_its_record():
    """Micro-batches of 16, as benchmarks/train_throughput.py sets them."""
    found = planner.read_training()["ours-32-8gb"]
    estimate = planner.estimate_memory(planner.make_config("gemma-2-9b-it"), 16, False, True)
    assert estimate == pytest.approx(found["peak_gib"], rel=TOLERANCE)


def test_weights_are_those_of_the_published_model():
    config = planner.make_config("gemma-2-9b-it")
    norms = config.num_hidden_layers * 4 * config.hidden_size + config.hidden_size
    embeddings = config.vocab_size * config.hidden_size
    adapter = 16 * config.num_hidden_layers * sum(map(sum, planner.list_linears(config)))
    assert adapter == 54_018_048
    assert planner.count_linear_weights(config) + embeddings + norms + adapter == 9_295_724_032


def test_trees_have_the_nodes_that_the_estimate_counts(gemma_tokenizer, monkeypatch):
    """The largest of some batches, with the sentences that the records were measured with."""
    monkeypatch.syspath_prepend(str(Path(planner.__file__).parent / "benchmarks"))
    import workload

    columns = training.encode_rows(gemma_tokenizer, workload.make_rows(gemma_tokenizer, 256, 0))
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for batch in (16, 32, 64, 128, 256):
        parts = [rows[start : start + batch] for start in range(0, len(rows), batch)]
        sizes = [training.TreeCollator(0)(part)["input_ids"].numel() for part in parts]
        nodes = planner.SHARED_NODES + (planner.PROMPT_NODES + planner.SENTENCE_TOKENS) * batch
        assert nodes == pytest.approx(max(sizes), rel=NODES_TOLERANCE)


def test_cards_get_what_fits():
    small, large = (planner.plan_card("gemma-2-9b-it", card) for card in ("8 GB (RTX 4060)", "141 GB (H200)"))
    assert (small["batch"], small["dense_weights"], small["checkpoint"]) == (16, False, True) and small["gib"] <= 7.5
    assert (large["batch"], large["dense_weights"], large["checkpoint"]) == (32, True, False)
    measured = planner.read_training()["ours-32"]["samples_per_second"]
    assert large["rows_per_second"] == pytest.approx(measured)  # the card and base of the record, unscaled
    assert planner.plan_card("gemma-2-27b-it", "16 GB (RTX 4080)") is None


def test_parts_of_a_base_fit_where_the_whole_does_not():
    base, card, parts = planner.PARTS
    config, room = planner.make_config(base), planner.CARDS[card][0]
    assert planner.plan_card(base, card) is None
    whole, halves, quarters = (planner.estimate_memory(config, 16, False, True, count) for count in (1, 2, 4))
    assert quarters < halves < room < whole
    packed = planner.count_linear_weights(config) / 2 / 2**30
    assert halves - quarters == pytest.approx(packed / 4) and parts == 2


def test_labelling_follows_from_the_records(capsys):
    plan = planner.plan_labelling(2_000_000, 4)
    rate = planner.read_record("h200-score.json")["rows_per_second"]["score, batch 1024"]
    assert plan["GPU-hours"][0] == pytest.approx(2_000_000 / rate / 3600)
    assert plan["days with 4 GPUs"][0] == pytest.approx(2_000_000 / rate / 86400 / 4)
    run = planner.read_record("predict_throughput.json")["rows"]["1000000"]
    assert plan["output, .csv"][0] == pytest.approx(2 * run["output_mib"] * 1.048576 / 1000)
    planner.main(["--sentences", "2000000", "--gpus", "4"])
    assert f"| GPU-hours | {plan['GPU-hours'][0]:.1f} h |" in capsys.readouterr().out


def test_the_readme_shows_what_the_planner_prints(capsys):
    """Run again and copy if a record, the formula or a constant changes."""
    planner.main([])
    readme = (Path(planner.__file__).parent / "README.md").read_text(encoding="utf-8")
    for line in capsys.readouterr().out.splitlines():
        assert not line.startswith("|") or line in readme, line


@pytest.mark.parametrize("flag", ["--train-rows", "--gpus", "--sentences"])
def test_impossible_numbers_are_refused(capsys, flag):
    with pytest.raises(SystemExit) as stopped:
        planner.parse_args([flag, "0"])
    assert stopped.value.code == 2 and flag in capsys.readouterr().err
