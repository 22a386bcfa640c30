"""Ask a running server the validation rows, and compare its answers with those that the export was written with.

The server is one that speaks OpenAI's protocol (vLLM, llama-server, Ollama) and serves a model that tools.export wrote.
Reads answers.jsonl and the tokenizer of --export, and val.jsonl of --data-dir; loads no weights. Prints how many labels
are the same, how far probabilities differ, and whether prompts have the tokens of training; --output keeps that.
A server that wants a key gets that of the environment variable OPENAI_API_KEY.

    python -m tools.check_export --export outputs/my-run/merged
    python -m tools.check_export --export outputs/my-run/merged --server http://localhost:11434/v1 --model stance
"""

import sys

try:
    from stance.common import startup  # noqa: F401 - first: what follows takes seconds to load
except ModuleNotFoundError:  # started by its path, a tool has Python look for modules in tools/
    print(
        "error: run it as: python -m tools.check_export ... (in the folder that holds tools/)",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

# isort: split
import argparse
import http.client
import json
import math
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import transformers

import prompts
from stance.common import errors, files, flags, formatting, progress
from stance.common.types import Example
from stance.corpus import splitting
from stance.model import chat, loading, merging, scoring

# ---------------------------------------------------------------- settings
EXPORT = "outputs/gemma-2-9b-it-stance/merged"  # folder that tools.export wrote
DATA_DIR = "data"  # folder of the splits that prepare_data.py wrote, as export read it
SERVER = "http://localhost:8000/v1"  # vLLM's; llama-server has port 8080, Ollama 11434
# share of rows with the label of an answer of the export, or with a tie there, below which the check fails
LEAST_SERVED_AGREEMENT = 0.95
# by which a label is likelier than another where both count as tied; bfloat16 moved as much
TIE_MARGIN = 0.05
TOP_LOGPROBS = 20  # most likely tokens asked for; vLLM and Ollama give no more
TIMEOUT_SECONDS = 600  # for one answer
# --------------------------------------------------------------------------

# Who gave the answers in answers.jsonl, as the table names them.
NAMES = {
    "adapter": "4-bit base and adapter",
    "rounded": "merged, rounded weights",
    "original": "merged, original weights",
}


class ServedAnswer(NamedTuple):
    """A server's answer to a prompt."""

    prompt_tokens: int  # as the server counts them
    reply: str  # the generated text
    # Of each label in prompts.LABELS order, in sum 1; None if the server does not tell
    probabilities: list[float] | None

    @property
    def label(self) -> str | None:
        """The label of highest probability; without probabilities, what the reply says."""
        if self.probabilities is None:
            return prompts.parse_label(self.reply)
        return scoring.pick_label(self.probabilities)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags."""
    parser = flags.FlagParser(__doc__)
    parser.add_argument(
        "--export", default=EXPORT, help="folder that tools.export wrote (%(default)s)"
    )
    parser.add_argument("--data-dir", default=DATA_DIR, help="folder of the splits (%(default)s)")
    parser.add_argument(
        "--server", default=SERVER, help="address, with the /v1 at its end (%(default)s)"
    )
    parser.add_argument(
        "--model", help="name of the model at the server (default: the only one that it lists)"
    )
    parser.add_argument("--output", help="a JSON file for the result (default: none)")
    return parser.parse_args(argv)


def call_server(server: str, path: str, body: dict | None = None) -> dict[str, Any]:
    """Return the JSON that a server answers to a GET, or to a POST of a body.

    Ends the script if it cannot be reached or answers with an error.
    """
    address = server.rstrip("/") + path
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    try:
        request = urllib.request.Request(address, data, headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as problem:
        said = " ".join(problem.read(2000).decode("utf-8", "replace").split())
        errors.fail(
            f"{address} answers {problem.code} {problem.reason} ({formatting.cut(said)}): "
            "check --server, --model and OPENAI_API_KEY"
        )
    except (OSError, http.client.HTTPException, ValueError) as problem:
        errors.fail(f"cannot ask {address} ({problem}): start the server, or check --server")
    if not isinstance(answer, dict):
        errors.fail(f"{address} does not answer as OpenAI's protocol has it: check --server")
    return answer


def find_model(server: str) -> str:
    """Return the name of the only model that a server lists; end the script if it lists others."""
    listed = call_server(server, "/models").get("data") or []
    names = [model["id"] for model in listed]
    if len(names) != 1:
        shown = formatting.list_first(names) or "none"
        errors.fail(f"{server} lists {len(names)} models ({shown}): name one by --model")
    return names[0]


def ask_server(
    server: str, model: str, prompt: str, tokenizer: transformers.PreTrainedTokenizerBase
) -> ServedAnswer:
    """Return a server's answer to the text of a user's turn, sent as docs/export.md says."""
    answer = call_server(
        server,
        "/chat/completions",
        {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": scoring.MAX_NEW_TOKENS,
            "logprobs": True,
            "top_logprobs": TOP_LOGPROBS,
        },
    )
    try:
        choice = answer["choices"][0]
        tokens = (choice.get("logprobs") or {}).get("content") or []
        return ServedAnswer(
            prompt_tokens=answer["usage"]["prompt_tokens"],
            reply=choice["message"]["content"] or "",
            probabilities=share_likelihoods(tokens, tokenizer),
        )
    except (KeyError, IndexError, TypeError, AttributeError) as problem:
        errors.fail(
            f"{server} does not answer as OpenAI's protocol has it ({problem!r}): check --server"
        )


def share_likelihoods(
    tokens: list[dict], tokenizer: transformers.PreTrainedTokenizerBase
) -> list[float] | None:
    """Return the probabilities of the labels from the likely tokens at each generated one.

    A label that is not among them has 0. Of a label of several tokens, those behind the first count
    as far as the generated tokens are its own: nothing tells how likely they are elsewhere. None if
    there are no likely tokens, or no label among them, or if labels have their first token in common.
    """
    labels = chat.encode_labels(tokenizer)
    if not tokens or len({ids[0] for ids in labels}) < len(labels):
        return None
    likelihoods = []
    for ids in labels:
        logprob = 0.0
        for id, token in zip(ids, tokens, strict=False):
            text = tokenizer.decode([id])
            likely = [other for other in token["top_logprobs"] if is_token(other, id, text)]
            logprob += likely[0]["logprob"] if likely else -math.inf
            if not is_token(token, id, text):
                break
        likelihoods.append(math.exp(logprob))
    total = sum(likelihoods)
    return [value / total for value in likelihoods] if total > 0 else None


def is_token(token: dict, id: int, text: str) -> bool:
    """Return whether a server's token is that of an id; only llama.cpp's server gives ids."""
    return token["id"] == id if "id" in token else token["token"] == text


def pair_rows(
    rows: list[Example], answers: list[merging.ExportedAnswer], data_dir: str
) -> list[tuple[Example, merging.ExportedAnswer]]:
    """Return each answer of an export with its validation row; end the script if one is missing."""
    by_id = {row["id"]: row for row in rows}
    missing = [answer["id"] for answer in answers if answer["id"] not in by_id]
    if missing:
        errors.fail(
            f"{data_dir}/val.jsonl lacks {len(missing)} of the {len(answers)} rows of the export "
            f"({formatting.list_first(missing)}): give the --data-dir that it was written with"
        )
    return [(by_id[answer["id"]], answer) for answer in answers]


def compare_answers(
    served: list[ServedAnswer], answers: list[merging.ExportedAnswer], name: str
) -> dict[str, Any]:
    """Return how far a server's answers agree with those of the export that have a name.

    rows, same_label: counts. largest_difference: of a probability, None without any. others: the
    rows with another label, each with the margin by which the export preferred its own.
    """
    differences = []
    others = []
    for answer, exported in zip(served, answers, strict=True):
        expected = exported["probabilities"][name]
        label = scoring.pick_label(expected)
        if answer.probabilities is not None:
            pairs = zip(answer.probabilities, expected, strict=True)
            differences += [abs(one - other) for one, other in pairs]
        if answer.label != label:
            margin = max(expected)
            if answer.label is not None:
                margin -= expected[prompts.LABELS.index(answer.label)]
            others.append(
                {
                    "id": exported["id"],
                    "label": label,
                    "served": answer.label,
                    "margin": round(margin, 6),
                }
            )
    return {
        "rows": len(served),
        "same_label": len(served) - len(others),
        "largest_difference": round(max(differences), 6) if differences else None,
        "others": others,
    }


def check_server(
    pairs: list[tuple[Example, merging.ExportedAnswer]],
    tokenizer: transformers.PreTrainedTokenizerBase,
    server: str,
    model: str,
) -> dict[str, Any]:
    """Return how a server answers the rows of an export, which pair_rows returns.

    other_tokens: {id: tokens more than in training} of rows whose prompt has another number of
    tokens. other_replies: rows whose generated reply is not their label of highest probability.
    agreement: by who answered in the export, see compare_answers.
    """
    served = []
    with progress.open_progress(len(pairs), "ask", "row") as bar:
        for row, _ in pairs:
            sentence = chat.fit_sentence(tokenizer, row["topic"], row["text"])
            prompt = prompts.build_prompt(row["topic"], sentence)
            served.append(ask_server(server, model, prompt, tokenizer))
            bar.update()
    answers = [answer for _, answer in pairs]
    other_tokens = {}
    for answer, exported in zip(served, answers, strict=True):
        if answer.prompt_tokens != exported["prompt_tokens"]:
            more = answer.prompt_tokens - exported["prompt_tokens"]
            other_tokens[exported["id"]] = more
    names = [name for name in NAMES if name in answers[0]["probabilities"]]
    return {
        "server": server,
        "model": model,
        "rows": len(pairs),
        "other_tokens": other_tokens,
        "other_replies": sum(prompts.parse_label(one.reply) != one.label for one in served),
        "without_probabilities": sum(one.probabilities is None for one in served),
        "agreement": {name: compare_answers(served, answers, name) for name in names},
    }


def print_result(result: dict[str, Any]) -> None:
    """Print what check_server returns."""
    lines = []
    for name, agreement in result["agreement"].items():
        difference = agreement["largest_difference"]
        margins = [row["margin"] for row in agreement["others"]]
        lines.append(
            [
                NAMES[name],
                f"{agreement['same_label']} of {agreement['rows']}",
                "-" if difference is None else f"{difference:.4f}",
                f"{max(margins):.4f}" if margins else "-",
            ]
        )
    header = ["Compared with", "same label", "largest difference", "largest margin of another"]
    print(formatting.format_table(header, lines))
    equal = result["rows"] - len(result["other_tokens"])
    print(f"prompts with as many tokens as in training: {equal} of {result['rows']}")
    if result["other_replies"]:
        print(
            f"note: {result['other_replies']} replies are another text than their likeliest label"
        )
    if result["without_probabilities"]:
        print(
            f"note: the server gives no probabilities of the labels for "
            f"{result['without_probabilities']} rows: their replies are compared"
        )


def check_result(result: dict[str, Any]) -> None:
    """End the script if a server's prompts or answers are not those of the export."""
    other_tokens = result["other_tokens"]
    if other_tokens:
        most = max(other_tokens.values(), key=abs)
        errors.fail(
            f"{len(other_tokens)} of {result['rows']} prompts have another number of tokens at the "
            f"server than in training ({most:+} at most, row {next(iter(other_tokens))} is the "
            "first): it serves another tokenizer or chat template, or texts hold control tokens"
        )
    agreeing = []
    for agreement in result["agreement"].values():
        ties = [row for row in agreement["others"] if row["margin"] <= TIE_MARGIN]
        agreeing.append(agreement["same_label"] + len(ties))
    if max(agreeing) < LEAST_SERVED_AGREEMENT * result["rows"]:
        errors.fail(
            f"only {max(agreeing)} of {result['rows']} rows have the label of the export, or a tie there: "
            "check which model and quantisation is served, and evaluate it before you use it"
        )


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    hint = "give a folder that tools.export wrote, or export again"
    answers = files.read_jsonl(
        Path(args.export) / merging.ANSWERS_FILE, ("id", "prompt_tokens", "probabilities"), hint
    )
    rows = splitting.load_split(Path(args.data_dir) / "val.jsonl")
    pairs = pair_rows(rows, answers, args.data_dir)
    tokenizer = loading.load_tokenizer(args.export)
    model = args.model or find_model(args.server)
    result = check_server(pairs, tokenizer, args.server, model)
    if args.output:
        files.write_json(args.output, result)
    print_result(result)
    check_result(result)
    print(f"{args.server} answers as the export does")


if __name__ == "__main__":
    errors.run_script(main)
