"""tools/check_export.py: a server that answers as the export passes; one that does not fails, and says why."""

import http.server
import json
import math
import threading

import pytest
import tiny_model
from byte_tokenizer import make_byte_tokenizer
from stopping import stop_message

import prompts
from stance.common import files
from stance.model import chat, loading
from tools import check_export

EXPECTED = {"Dogs bark.": [0.7, 0.2, 0.1], "Cats do not.": [0.1, 0.5, 0.4], "So?": [0.2, 0.3, 0.5]}
TOPIC = "Pets are noisy."


def make_tiny_tokenizer():
    return tiny_model.train_tokenizer([(TOPIC, text) for text in EXPECTED])


@pytest.fixture(params=[make_tiny_tokenizer, make_byte_tokenizer], scope="module")
def export(request, tmp_path_factory):
    """(folder of an export without weights, its tokenizer): labels are one token each, or three."""
    folder = tmp_path_factory.mktemp("export")
    tokenizer = request.param()
    tokenizer.save_pretrained(folder)
    rows, answers = [], []
    for text, probabilities in EXPECTED.items():
        row = {"id": f"{len(rows):016x}", "topic": TOPIC, "text": text, "stance": "Pro"}
        rows.append({**row, "prompt": prompts.build_prompt(TOPIC, text), "label": "pro"})
        far = [1 / 3 + 0.1, 1 / 3, 1 / 3 - 0.1]
        answers.append(
            {
                "id": row["id"],
                "prompt_tokens": len(chat.encode_example(tokenizer, TOPIC, text)),
                "probabilities": {"adapter": far, "rounded": probabilities},
            }
        )
    files.write_jsonl(folder / "val.jsonl", rows)
    files.write_jsonl(folder / "answers.jsonl", answers)
    return folder, loading.load_tokenizer(str(folder))


class Server(http.server.ThreadingHTTPServer):
    """Answers as EXPECTED says; what a test changes of that is in its attributes."""

    def __init__(self, tokenizer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.tokenizer = tokenizer
        self.models = ["stance"]
        self.more_tokens = 0
        self.with_ids = False  # as llama.cpp's server
        self.with_logprobs = True
        self.probabilities = dict(EXPECTED)
        self.status = 200
        self.asked = []

    def answer(self, body):
        """Return a chat completion: greedy, with the likely tokens at each place."""
        self.asked.append(body)
        prompt = body["messages"][0]["content"]
        text = next(text for text in EXPECTED if f"```{text}```" in prompt)
        labels = chat.encode_labels(self.tokenizer)
        by_label = self.probabilities[text]
        best = max(range(3), key=by_label.__getitem__)
        content = []
        for place, id in enumerate(labels[best]):
            # The first tokens share 0.8 of the probability; then the label goes on by 0.9.
            likely = [(id, 0.9)]
            if place == 0:
                rest = 0.9 ** (len(labels[0]) - 1)  # so that labels have the shares of by_label
                likely = [
                    (ids[0], 0.8 * share / (rest if ids is labels[best] else 1))
                    for ids, share in zip(labels, by_label, strict=True)
                ]
            content.append(self.describe(id, 1.0))
            content[-1]["top_logprobs"] = [self.describe(*pair) for pair in likely]
        ids = chat.encode_example(self.tokenizer, TOPIC, text)
        choice = {"message": {"role": "assistant", "content": prompts.LABELS[best]}}
        if self.with_logprobs:
            choice["logprobs"] = {"content": content}
        return {"choices": [choice], "usage": {"prompt_tokens": len(ids) + self.more_tokens}}

    def describe(self, id, probability):
        token = {"token": self.tokenizer.decode([id]), "logprob": math.log(probability)}
        return {**token, "id": id} if self.with_ids else token


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply({"data": [{"id": name} for name in self.server.models]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.reply(self.server.answer(body))

    def reply(self, answer):
        data = json.dumps(answer if self.server.status == 200 else {"error": "no such\nmodel"})
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data.encode())

    def log_message(self, *words):
        pass


@pytest.fixture
def server(export, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    running = Server(export[1])
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def list_flags(export, server, *others):
    address = f"http://127.0.0.1:{server.server_port}/v1"
    folder = str(export[0])
    return ["--export", folder, "--data-dir", folder, "--server", address, *others]


@pytest.mark.parametrize("with_ids", [False, True])
def test_a_server_that_answers_as_the_export_passes(export, server, with_ids, tmp_path, capsys):
    server.with_ids = with_ids
    output = tmp_path / "result.json"
    check_export.main(list_flags(export, server, "--output", str(output)))
    printed = " ".join(capsys.readouterr().out.split())
    assert "merged, rounded weights 3 of 3 0.0000 -" in printed
    assert "as many tokens as in training: 3 of 3" in printed
    result = files.read_json(output, "")
    rounded, adapter = (result["agreement"][name] for name in ("rounded", "adapter"))
    assert rounded == {"rows": 3, "same_label": 3, "largest_difference": 0.0, "others": []}
    assert adapter["same_label"] == 1 and adapter["largest_difference"] == pytest.approx(
        1 / 3, abs=1e-6
    )
    margins = {row["served"]: row["margin"] for row in adapter["others"]}
    assert margins == {"con": pytest.approx(0.1), "neu": pytest.approx(0.2)}
    assert result["other_tokens"] == {} and result["other_replies"] == 0
    for body, text in zip(server.asked, EXPECTED, strict=True):
        assert body["messages"][0]["content"] == prompts.build_prompt(TOPIC, text)
        assert body["temperature"] == 0 and body["model"] == "stance"


def test_other_tokens_in_the_prompt_fail_though_labels_are_the_same(export, server, capsys):
    server.more_tokens = 18
    message = stop_message(capsys, check_export.main, list_flags(export, server))
    assert "3 of 3 prompts have another number of tokens" in message and "+18" in message


def test_other_labels_fail(export, server, capsys):
    server.probabilities = {text: [0.2, 0.2, 0.6] for text in EXPECTED}
    message = stop_message(capsys, check_export.main, list_flags(export, server))
    assert "only 1 of 3 rows have the label of the export, or a tie" in message


def test_other_labels_where_the_export_has_a_tie_pass(export, server, monkeypatch, capsys):
    server.probabilities = {**EXPECTED, "Cats do not.": [0.1, 0.4, 0.5]}
    message = stop_message(capsys, check_export.main, list_flags(export, server))
    assert "only 2 of 3 rows" in message
    monkeypatch.setattr(check_export, "TIE_MARGIN", 0.101)
    check_export.main(list_flags(export, server))
    assert "2 of 3" in capsys.readouterr().out


def test_without_probabilities_the_replies_are_compared(export, server, capsys):
    server.with_logprobs = False
    check_export.main(list_flags(export, server))
    printed = capsys.readouterr().out
    assert "3 of 3" in printed and "no probabilities of the labels for 3 rows" in printed
    server.probabilities = {text: [0.2, 0.2, 0.6] for text in EXPECTED}
    assert "only 1 of 3" in stop_message(capsys, check_export.main, list_flags(export, server))


def test_a_label_beyond_the_likely_tokens_has_no_probability(export):
    ids = chat.encode_labels(export[1])[0]
    likely = {"token": export[1].decode([ids[0]]), "logprob": math.log(0.9)}
    token = {**likely, "top_logprobs": [likely]}
    assert check_export.share_likelihoods([token], export[1]) == [1, 0, 0]
    assert check_export.share_likelihoods([], export[1]) is None
    other = {"token": "?", "logprob": -0.1}
    assert check_export.share_likelihoods([{**other, "top_logprobs": []}], export[1]) is None


@pytest.mark.parametrize(
    "fault, words",
    [
        ("no server", "start the server"),
        ("error of the server", "answers 404"),
        ("two models", "lists 2 models (stance, other)"),
        ("other splits", "lacks 1 of the 3 rows"),
        ("no export", "tools.export"),
        ("another protocol", "OpenAI's protocol"),
    ],
)
def test_what_cannot_be_checked_ends_in_one_line(export, server, fault, words, tmp_path, capsys):
    line = list_flags(export, server)
    if fault == "no server":
        line[5] = "http://127.0.0.1:9/v1"
    elif fault == "error of the server":
        server.status = 404
    elif fault == "two models":
        server.models.append("other")
    elif fault == "other splits":
        rows = (export[0] / "val.jsonl").read_text(encoding="utf-8").splitlines()[1:]
        files.write_jsonl(tmp_path / "val.jsonl", map(json.loads, rows))
        line[3] = str(tmp_path)
    elif fault == "no export":
        line[1] = str(tmp_path)
    else:
        server.answer = lambda body: {"choices": []}
    assert words in stop_message(capsys, check_export.main, line)
