"""Label new sentences with a fine-tuned adapter: the stance of each towards its topic, with probabilities.

Reads one --topic and --text; or, with --input, a table (.xlsx, .csv, .tsv, .jsonl) with the columns topic and text, or
- for sentences on stdin, one a line. --topic gives the topic of all rows, --topics-file several, one a line.
Without any of these, asks for sentences on the terminal.
Writes --output, the same table with the columns stance, p_pro, p_con, p_neu, confidence and review added, and topic if
a flag gives it, with --topics-file a row for each sentence and topic; and OUTPUT.stances.png. Or prints the one answer.
If it is interrupted, the same command goes on where it stopped. Several GPUs: torchrun --nproc-per-node 2 predict.py

    python predict.py --topic "Vegans are right." --text "It's all about finding a system that works for you."
    python predict.py --input comments.xlsx --output labelled.xlsx
    cat sentences.txt | python predict.py --input - --topic "Vegans are right." --output labelled.csv
"""

from stance.common import startup  # first: what follows takes seconds to load
import argparse
import contextlib
import sys
from collections import Counter, defaultdict
from pathlib import Path

from stance.model import compilation
from stance.labelling import terminal
from stance.corpus import corpus
from stance.model import cuda_graphs
from stance.evaluation import figures
from stance.labelling import labeller
from stance.model import loading
from stance.model import chat
from stance.common import distributed
from stance.common import records
from stance.model import memory
from stance.model import scoring
from stance.corpus import tables

# ---------------------------------------------------------------- settings
TEXT_COLUMN = None  # header of the sentences; None: any of corpus.COLUMN_NAMES
TOPIC_COLUMN = None  # header of the topics; None: any of corpus.COLUMN_NAMES
SHEET = None  # name of the sheet to label; None: the only one with these headers
RESUME = True  # go on from what an interrupted run left beside --output; False: label all of it again
REVIEW_BELOW = 0.6  # confidence, the highest of the three probabilities, below which review says yes
EXPLAIN = 0  # words shown with --text that the answer hangs on most
SUMMARY_TOPICS = 20  # topics shown one by one after a table is labelled, those with most rows
# --------------------------------------------------------------------------

TABLE_DIGITS = 4  # of the probabilities in a table
TOPIC_HEADERS = ("topic", "given_topic")  # of the column of topics from flags; the second if the table has the first
COLUMNS = ("stance", "p_pro", "p_con", "p_neu", "confidence", "review")  # added; probabilities in prompts.LABELS order
SHADES = {"stance": {"pro": "BDD7EE", "con": "F8CBAD", "neu": "E7E6E6"}}  # of cells in Excel: blue, orange, grey


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--adapter", default=loading.RUN_DIR, help="folder that finetune.py wrote (%(default)s)")
    parser.add_argument("--topic", help="the claim, for --text or for all rows of --input")
    parser.add_argument("--topics-file", help="text file of claims, one a line: each sentence is labelled for each")
    parser.add_argument("--text", help="the sentence")
    parser.add_argument("--input", help="table to label: .xlsx, .csv, .tsv or .jsonl; - for sentences on stdin")
    parser.add_argument("--output", help="labelled table to write, of any of these types")
    parser.add_argument("--text-column", default=TEXT_COLUMN, help="header of the sentences (default: text, ...)")
    parser.add_argument("--explain", type=int, default=EXPLAIN, help="show so many words that decide (%(default)s)")
    args = parser.parse_args(argv)
    if args.text is not None and (args.topic is None or args.input or args.output):
        records.stop("--text goes with --topic, and without --input and --output")
    if bool(args.input) != bool(args.output):
        records.stop("--input and --output go together")
    if args.topics_file and (args.topic is not None or not args.input):
        records.stop("--topics-file goes with --input, and without --topic")
    if args.input == "-" and args.topic is None and not args.topics_file:
        records.stop("sentences on stdin have no topic: give --topic or --topics-file")
    if args.explain < 0 or args.explain and args.input:
        records.stop("--explain takes a number of words, and goes without --input")
    if args.output:
        tables.check_suffix(args.output)
        if Path(args.input).resolve() == Path(args.output).resolve():  # other sheets and formats would be lost
            records.stop(f"--output {args.output} would replace the table to label: give it another name")
    if args.topic is not None and not tables.clean_text(args.topic):
        records.stop("--topic must not be empty")
    return args


def check_mode(args):
    """Stop if there is nothing to read, or no one process to read it."""
    if args.text is None and not args.input and not sys.stdin.isatty():
        records.stop("give --topic and --text for one sentence, or --input and --output for a table")
    if distributed.get_rank()[1] > 1 and args.input in (None, "-"):
        records.stop("torchrun is for tables: give --input and --output, or start predict.py with python")


def load_scorer(adapter, base, tokenizer, rows):
    """Load base and adapter for so many rows; return score(pairs) -> scoring.Scores."""
    model = loading.load_adapter(loading.load_base(base), adapter)
    size = compilation.prepare_scoring(model, rows)
    if rows == 1:
        remedy = "end other programs on the GPU (nvidia-smi lists them), or set CUDA_GRAPHS in stance/model/compilation.py to False"
        with memory.explain_memory("record how one sentence is answered", remedy):
            cuda_graphs.record_answers(model)

    def score(pairs, batch_size=None, bar=None):
        if bar is None:  # of a table, label_table reports all sentences at once
            chat.report_long(tokenizer, pairs)
        encoded = chat.encode_examples(tokenizer, pairs)
        return scoring.score_prompts(model, tokenizer, encoded, batch_size or size, bar)

    return score


def read_topics(args):
    """Return the cleaned topics that flags give for all rows; None if each row has its own."""
    if args.topics_file:
        return tables.read_topics(args.topics_file)
    return [tables.clean_text(args.topic)] if args.topic else None


def open_input(args, topics, stdin):
    """Open the table to label, at its start: it is read twice."""
    if stdin is not None:
        return tables.open_lines(stdin)
    named = {"topic": TOPIC_COLUMN, "text": args.text_column}
    if topics:
        del named["topic"]
    needed = {name: (tables.clean_text(own),) if own else corpus.COLUMN_NAMES[name] for name, own in named.items()}
    rename = "name those of the file: --text-column, and TOPIC_COLUMN at the top of predict.py"
    return tables.open_table(args.input, needed, SHEET, "name one in SHEET at the top of predict.py", rename)


def note_topics(table, header):
    """Print a note if topics that flags give take the place of a column of topics."""
    accepted = (TOPIC_COLUMN.casefold(),) if TOPIC_COLUMN else corpus.COLUMN_NAMES["topic"]
    unused = [name for name in table.header if "topic" not in table.columns and name.casefold() in accepted]
    if unused:
        column = f"the column {records.quote(unused[0])} of {table.place}"
        given = header[len(table.header)]
        print(f"note: {column} is not used: stances are towards the topic in the column {given} of the output")


def name_columns(args, table):
    """Return the header of the output; stop if the table has one of its columns, or cannot be written as --output."""
    known = {name.casefold() for name in table.header}
    given = [] if "topic" in table.columns else [TOPIC_HEADERS[TOPIC_HEADERS[0] in known]]
    added = [*given, *COLUMNS]
    taken = [name for name in table.header if name.casefold() in added]
    if taken:
        records.stop(f"{table.place} already has the column {taken[0]}, which predict.py adds: rename it")
    tables.check_output(args.output, [*table.header, *added])
    return [*table.header, *added]


def check_rows(args, table, topics):
    """Yield the pairs of all rows; stop after the last if any row cannot be labelled."""
    count, empty, broken = 0, [], []
    for number, cells, pairs in labeller.read_rows(table, topics):
        values = {value for pair in pairs for value in pair}
        if "" in values:
            empty.append(number)
        elif values & corpus.BROKEN:
            broken.append(number)
        tables.check_fit(args.output, table.place, number, table.header, cells)
        count += len(pairs)
        yield from pairs
    faults = [f"empty {' or '.join(table.columns)} in {records.count_rows(empty)}"] if empty else []
    faults += [f"an Excel error such as #N/A instead of a text in {records.count_rows(broken)}"] if broken else []
    if faults:
        records.stop(f"{table.place}: {'; '.join(faults)}: fill or delete them")
    if not count:
        records.stop(f"{table.place}: no rows to label: fill in the table")
    tables.check_length(args.output, count)


def label_rows(table, topics, store, counts):
    """Yield the rows of the output; counts, {topic: Counter of labels and of "review"}, grow with them."""
    rows = 0
    for _, cells, pairs in labeller.read_rows(table, topics):
        for topic, text in pairs:
            probabilities = store.find_answer(topic, text)
            if probabilities is None:
                break
            label, confidence = scoring.pick_label(probabilities), round(max(probabilities), TABLE_DIGITS)
            review = confidence < REVIEW_BELOW
            counts[topic].update([label, "review"] if review else [label])
            rows += 1
            shares = [round(value, TABLE_DIGITS) for value in probabilities]
            answer = [label, *shares, confidence, "yes" if review else "no"]
            yield [*cells, *([topic] if topics else []), *answer]
    if rows != store.rows:
        records.stop(f"{table.place} changed while it was labelled: start again")


def label_table(args, record, tokenizer):
    """Label a table and sum it up; of several processes, the first alone writes."""
    base = record["base_model"]
    distributed.join_ranks()
    with distributed.first_rank_first():
        topics = read_topics(args)
        stdin = tables.keep_stdin() if args.input == "-" else None
        table = open_input(args, topics, stdin)
        header = name_columns(args, table)
        note_topics(table, header)
        store = labeller.PairStore(check_rows(args, table, topics))
        if distributed.get_rank()[0] == 0:
            chat.report_long(tokenizer, store.read_pairs())
    if not RESUME and distributed.get_rank()[0] == 0:
        labeller.remove_parts(args.output)
    distributed.wait_for_ranks()
    run = labeller.describe_run(args.adapter, base, store)
    labeller.label_pairs(store, args.output, run, lambda: load_scorer(args.adapter, base, tokenizer, store.size))
    if distributed.get_rank()[0] == 0:
        counts = defaultdict(Counter)
        with contextlib.redirect_stdout(None):  # notes about the table were printed when it was read first
            rows = label_rows(open_input(args, topics, stdin), topics, store, counts)
            tables.write_table(args.output, header, rows, SHADES)
        labeller.remove_parts(args.output)
        summary, picture = terminal.summarise(counts, SUMMARY_TOPICS), Path(args.output).with_suffix(".stances.png")
        print(f"\n{terminal.format_summary(summary)}\n")
        low = sum(count["review"] for count in summary.values())
        print(f"review: {low:,} of {store.rows:,} rows have a confidence below {REVIEW_BELOW}")
        figures.plot_shares(summary, picture, loading.read_demo_note(base))
        print(f"labelled {store.rows:,} rows, {store.size:,} of them different: wrote {args.output} and {picture.name}")
    distributed.leave_ranks()


def main(argv=None):
    args = parse_args(argv)
    check_mode(args)
    record = loading.check_adapter(args.adapter)
    base, topic = record["base_model"], tables.clean_text(args.topic)
    loading.check_base(base)
    tokenizer = loading.load_tokenizer(base)
    loading.check_same_base(args.adapter, base, tokenizer)
    if args.input:
        label_table(args, record, tokenizer)
    elif args.text is not None:
        text = tables.clean_text(args.text)
        if not text:
            records.stop("--text must not be empty")
        terminal.print_answer(load_scorer(args.adapter, base, tokenizer, 1), topic, text, args.explain, bar=False)
    else:
        terminal.answer_lines(lambda: load_scorer(args.adapter, base, tokenizer, 1), topic, args.explain)
    note = loading.read_demo_note(base)
    if note and distributed.get_rank()[0] == 0:
        print(note)


if __name__ == "__main__":
    records.run_script(main)
