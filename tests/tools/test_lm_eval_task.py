"""The task of lm-evaluation-harness asks what evaluate.py asks; its accuracy was compared in docs/ecosystem.md."""

from pathlib import Path

import yaml

import prompts
from stance.corpus import splitting

TASK = Path(__file__).resolve().parents[2] / "tools" / "lm_eval" / "stance.yaml"


def test_the_task_asks_the_prompt_of_a_row_for_its_label(data_dir):
    task = yaml.safe_load(TASK.read_text(encoding="utf-8"))
    assert (
        task["doc_to_choice"] == list(prompts.LABELS) and task["output_type"] == "multiple_choice"
    )
    assert (task["doc_to_text"], task["doc_to_target"]) == ("{{prompt}}", "{{label}}")
    assert task["target_delimiter"] == "" and task["metric_list"][0]["metric"] == "acc"
    assert task["dataset_kwargs"]["data_files"] == {"test": "data/test.jsonl"}
    for row in splitting.load_split(f"{data_dir}/test.jsonl"):
        assert row["prompt"] == prompts.build_prompt(row["topic"], row["text"])
        assert row["label"] in task["doc_to_choice"]
