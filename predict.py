"""Label new sentences with a fine-tuned adapter: the stance of each towards its topic, with probabilities.

Reads one --topic and --text; or, with --input, a table (.xlsx, .csv, .parquet and others) with the columns topic and text, or
- for sentences on stdin, one a line. --topic gives the topic of all rows, --topics-file several, one a line.
--gold-column names a column of gold stances: how well the predictions agree with them is printed.
Without any of these, asks for sentences on the terminal.
Writes --output, the same table with the columns stance, p_pro, p_con, p_neu, confidence and review added, and topic if
a flag gives it, with --topics-file a row for each sentence and topic; and OUTPUT.stances.png. Or prints the one answer.
A column that the table has already is added as predicted_stance, predicted_confidence, and so on.
If it is interrupted, the same command goes on where it stopped. Several GPUs: torchrun --nproc-per-node 2 predict.py

    python predict.py --topic "Vegans are right." --text "It's all about finding a system that works for you."
    python predict.py --input comments.xlsx --output labelled.xlsx
    cat sentences.txt | python predict.py --input - --topic "Vegans are right." --output labelled.csv
"""

from stance.common import startup  # noqa: F401 - first: what follows takes seconds to load

# isort: split
import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stance.common import distributed, errors, files, flags
from stance.common.types import RunRecord
from stance.corpus import cleaning, labels, reading, splitting, tables
from stance.labelling import gold, labeller, table, terminal
from stance.model import (
    adapters,
    chat,
    compilation,
    fingerprints,
    loading,
    memory,
    scoring,
)

if TYPE_CHECKING:
    import transformers

# ---------------------------------------------------------------- settings
ADAPTER = "outputs/gemma-2-9b-it-stance"  # folder that finetune.py wrote
TEXT_COLUMN = None  # header of the sentences; None: any of annotations.COLUMN_NAMES
TOPIC_COLUMN = None  # header of the topics; None: any of annotations.COLUMN_NAMES
LABELS = ()  # words as of --labels: what the stances of --gold-column mean
CLEAN_C1 = True  # don\x92t, cp1252 misread, is read as don’t; False: without such characters
UNESCAPE_HTML = True  # &gt; is read as >; False: HTML entities stay as they are
SHEET = None  # name of the sheet to label; None: the only one with these headers
RESUME = True  # go on where an interrupted run of the same command stopped; False: label all again
REVIEW_BELOW = 0.6  # confidence, the highest of the three probabilities, below which review is yes
EXPLAIN = 0  # words shown with --text that the answer hangs on most
SUMMARY_TOPICS = 20  # topics shown one by one after a table is labelled, those with most rows
# --------------------------------------------------------------------------


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags; fail on those that do not go together."""
    parser = flags.FlagParser(__doc__)
    parser.add_argument(
        "--adapter", default=ADAPTER, help="folder that finetune.py wrote (%(default)s)"
    )
    parser.add_argument("--topic", help="the claim, for --text or for all rows of --input")
    parser.add_argument(
        "--topics-file", help="text file of claims, one a line: each sentence is labelled for each"
    )
    parser.add_argument("--text", help="the sentence")
    parser.add_argument(
        "--input", help="table to label, of any kind that corpora have; - for sentences on stdin"
    )
    parser.add_argument("--output", help="labelled table to write: .xlsx, .csv, .tsv or .jsonl")
    parser.add_argument(
        "--text-column", default=TEXT_COLUMN, help="header of the sentences (default: text, ...)"
    )
    parser.add_argument(
        "--topic-column", default=TOPIC_COLUMN, help="header of the topics (default: topic, ...)"
    )
    parser.add_argument("--gold-column", help="header of gold stances to compare predictions with")
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="LABEL=STANCE,...",
        default=LABELS,
        help="what gold stances mean: pro=1 con=-1 drop=unrelated (default: built-in spellings)",
    )
    reading.add_file_flags(parser, SHEET)
    parser.add_argument(
        "--explain", type=int, default=EXPLAIN, help="show so many words that decide (%(default)s)"
    )
    args = parser.parse_args(argv)
    if args.text is not None and (args.topic is None or args.input or args.output):
        errors.fail("--text goes with --topic, and without --input and --output")
    if bool(args.input) != bool(args.output):
        errors.fail("--input and --output go together")
    if args.topics_file and (args.topic is not None or not args.input):
        errors.fail("--topics-file goes with --input, and without --topic")
    if args.input == "-" and args.topic is None and not args.topics_file:
        errors.fail("sentences on stdin have no topic: give --topic or --topics-file")
    check_gold_flags(args.gold_column, args.labels, args.input, args.topics_file)
    if args.explain < 0 or args.explain and args.input:
        errors.fail("--explain takes a number of words, and goes without --input")
    if args.output:
        tables.check_suffix(args.output)
        # Other sheets and formats would be lost.
        files.check_not_input(
            args.output, {"--input": args.input, "--topics-file": args.topics_file}
        )
    if args.topic is not None and not cleaning.clean_text(args.topic):
        errors.fail("--topic must not be empty")
    return args


def check_gold_flags(
    gold_column: str | None,
    labels_words: Sequence[str],
    table_path: str | None,
    topics_file: str | None,
) -> None:
    """Fail if flags on gold stances do not go with the others; table_path: --input."""
    if gold_column is None:
        if labels_words:
            errors.fail("--labels goes with --gold-column: it says what its stances mean")
        return
    if not cleaning.clean_text(gold_column):
        errors.fail("--gold-column must not be empty")
    if table_path in (None, "-"):
        errors.fail("--gold-column goes with --input, and names a column of that table")
    if topics_file:
        errors.fail("--gold-column goes without --topics-file: a gold stance is towards one topic")


def check_something_to_read(text: str | None, table_path: str | None) -> None:
    """Fail if there is nothing to read, or no one process to read it.

    text: the sentence that --text gives; table_path: --input, which is - for stdin.
    """
    if text is None and not table_path and not sys.stdin.isatty():
        errors.fail("give --topic and --text for one sentence, or --input and --output for a table")
    _, processes = distributed.get_rank()
    if processes > 1 and table_path in (None, "-"):
        errors.fail(
            "torchrun is for tables: give --input and --output, or start predict.py with python"
        )


def compare_cleaning(record: RunRecord, repairs: cleaning.Cleaning) -> bool:
    """Return whether an adapter was trained on texts that were cleaned in the same way; note if
    not."""
    trained = splitting.read_cleaning(record)
    here = cleaning.describe_cleaning(repairs)
    if trained != here and distributed.get_rank()[0] == 0:
        print(f"note: the adapter learnt from texts cleaned by version {trained}, these by {here}")
    return trained == here


def choose_topics(topic: str, topics_file: str | None) -> list[str] | None:
    """Return the cleaned topics that flags give for all rows; None if each row has its own.

    topic: cleaned; "" if no flag gives it.
    """
    if topics_file:
        return tables.read_topics(topics_file)
    if topic:
        return [topic]
    return None


def choose_gold(
    header: str | None, labels_words: Sequence[str], adapter: str, same_cleaning: bool
) -> gold.GoldColumn | None:
    """Return what --gold-column and --labels say; None without a header.

    same_cleaning: whether the adapter was trained on texts cleaned as those of the table are.
    """
    if header is None:
        return None
    stances = labels.read_stances(labels_words)
    if labels.is_sentiment_header(header):
        stances = stances._replace(takes_sentiment=False)
    trained = fingerprints.read_hashes(adapter)
    return gold.GoldColumn(cleaning.clean_text(header), stances, trained, same_cleaning)


def load_scorer(
    adapter: str, base: str, tokenizer: "transformers.PreTrainedTokenizerBase", rows: int
) -> labeller.Scorer:
    """Load base and adapter to score so many rows; return score(pairs) -> scoring.Scores."""
    model = adapters.load_adapter(loading.load_base(base), adapter)
    planned_size = compilation.prepare_scoring(model, rows)
    if rows == 1:
        hint = (
            "end other programs on the GPU (nvidia-smi lists them), "
            "or set CUDA_GRAPHS in stance/model/compilation.py to False"
        )
        with memory.explain_memory("record how one sentence is answered", hint):
            scoring.record_single_answers(model, tokenizer)

    def score(
        pairs: list[tuple[str, str]], batch_size: int | None = None, bar: object = None
    ) -> scoring.Scores:
        if bar is None:  # of a table, label_table reports all sentences at once
            chat.report_long(tokenizer, pairs)
        encoded = chat.encode_examples(tokenizer, pairs)
        return scoring.score_prompts(model, tokenizer, encoded, batch_size or planned_size, bar)

    return score


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_something_to_read(args.text, args.input)
    record = adapters.check_adapter(args.adapter)
    base = record["base_model"]
    loading.check_base(base)
    tokenizer = loading.load_tokenizer(base)
    adapters.check_same_base(args.adapter, base, tokenizer)
    repairs = cleaning.Cleaning(CLEAN_C1, UNESCAPE_HTML)
    same_cleaning = compare_cleaning(record, repairs)
    topic = cleaning.clean_text(args.topic, repairs)

    def load(rows: int) -> labeller.Scorer:
        return load_scorer(args.adapter, base, tokenizer, rows)

    if args.input:
        distributed.join_ranks()
        with distributed.first_rank_first():
            topics = choose_topics(topic, args.topics_file)
            gold_column = choose_gold(args.gold_column, args.labels, args.adapter, same_cleaning)
        source = table.Source(
            path=args.input,
            text_column=args.text_column,
            topic_column=args.topic_column,
            how=reading.take_reading(args),
            topics=topics,
            repairs=repairs,
            gold_column=gold_column,
        )
        table.label_table(
            source,
            args.output,
            args.adapter,
            base,
            tokenizer,
            load,
            resume=RESUME,
            review_below=REVIEW_BELOW,
            summary_topics=SUMMARY_TOPICS,
        )
        distributed.leave_ranks()
    elif args.text is not None:
        text = cleaning.clean_text(args.text, repairs)
        if not text:
            errors.fail("--text must not be empty")
        if args.explain:  # words that the model does not get decide nothing
            chat.report_long(tokenizer, [(topic, text)])
            text = chat.fit_sentence(tokenizer, topic, text)
        terminal.print_prediction(load(1), topic, text, args.explain, bar=False)
    else:
        terminal.predict_lines(lambda: load(1), topic, args.explain)
    note = loading.read_demo_note(base)
    if note and distributed.get_rank()[0] == 0:
        print(note)


if __name__ == "__main__":
    errors.run_script(main)
