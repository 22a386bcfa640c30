"""Label new sentences with a fine-tuned adapter: the stance of each towards its topic, with probabilities.

Reads one --topic and --text, or a table --input (.xlsx, .csv, .tsv, .jsonl) with the columns topic and text; with
--topic, the topic of all its rows.
Writes --output, the same table with the columns stance, p_pro, p_con and p_neu added; or prints the one answer.

    python predict.py --topic "Vegans are right." --text "It's all about finding a system that works for you."
    python predict.py --input comments.xlsx --output labelled.xlsx
"""

import argparse

import acceleration
import corpus
import modeling
import prompts
import records
import scoring
import tables

# ---------------------------------------------------------------- settings
COLUMNS = ("stance", "p_pro", "p_con", "p_neu")  # added to a table, the probabilities in prompts.LABELS order
# --------------------------------------------------------------------------


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--adapter", default=modeling.RUN_DIR, help="folder that finetune.py wrote (%(default)s)")
    parser.add_argument("--topic", help="the claim")
    parser.add_argument("--text", help="the sentence")
    parser.add_argument("--input", help="table to label: .xlsx, .csv, .tsv or .jsonl")
    parser.add_argument("--output", help="labelled table to write, of any of these types")
    args = parser.parse_args(argv)
    if args.text is not None and (args.topic is None or args.input or args.output):
        records.stop("--text goes with --topic, and without --input and --output")
    if args.text is None and not (args.input and args.output):
        records.stop("give --topic and --text for one sentence, or --input and --output for a table")
    if args.output:
        tables.check_suffix(args.output)
    if args.topic is not None and not tables.clean_text(args.topic):
        records.stop("--topic must not be empty")
    return args


def read_input(args):
    """Return (header, rows, pairs): the table as it is, and the (topic, text) of each row; stop on empty cells."""
    needed = {name: corpus.COLUMN_NAMES[name] for name in (("text",) if args.topic else ("topic", "text"))}
    table = tables.open_table(args.input, needed)
    taken = [name for name in table.header if name.casefold() in COLUMNS]
    if taken:
        records.stop(f"{table.place} already has the column {taken[0]}, which predict.py adds: rename it")
    rows, pairs, empty = [], [], []
    for number, cells in table.rows:
        values = {name: tables.clean_text(cells[place]) for name, place in table.columns.items()}
        if not any(tables.clean_text(cell) for cell in cells):
            continue
        if not all(values.values()):
            empty.append(number)
        rows.append(cells)
        pairs.append((tables.clean_text(args.topic) or values["topic"], values["text"]))
    if empty:
        records.stop(f"{table.place}: empty {' or '.join(needed)} in {tables.count_rows(empty)}: fill or delete them")
    if not rows:
        records.stop(f"{table.place}: no rows below the header: fill in the table")
    tables.check_output(args.output, table.header)
    return table.header, rows, pairs


def label_pairs(adapter, record, pairs):
    """Return one (label, probabilities in prompts.LABELS order) for each pair of topic and text."""
    base = record["base_model"]
    modeling.check_base(base)
    tokenizer = modeling.load_tokenizer(base)
    prompts.report_long(tokenizer, pairs)
    encoded = prompts.encode_examples(tokenizer, pairs)
    model = modeling.load_adapter(modeling.load_base(base), adapter)
    acceleration.prepare_scoring(model, len(pairs))
    scores = scoring.score_prompts(model, tokenizer, encoded)
    return [
        (prompts.LABELS[max(range(len(row)), key=row.__getitem__)], row) for row in scores.probabilities.tolist()
    ]


def main(argv=None):
    args = parse_args(argv)
    record = modeling.check_adapter(args.adapter)
    if args.text is not None:
        topic, text = tables.clean_text(args.topic), tables.clean_text(args.text)
        if not text:
            records.stop("--text must not be empty")
        [(label, probabilities)] = label_pairs(args.adapter, record, [(topic, text)])
        shares = "  ".join(f"p_{name} {value:.3f}" for name, value in zip(prompts.LABELS, probabilities, strict=True))
        print(f"{label}  {shares}")
    else:
        header, rows, pairs = read_input(args)
        answers = label_pairs(args.adapter, record, pairs)
        labelled = [
            [*cells, label, *(round(value, 4) for value in probabilities)]
            for cells, (label, probabilities) in zip(rows, answers, strict=True)
        ]
        tables.write_table(args.output, [*header, *COLUMNS], labelled)
        print(f"labelled {len(rows)} rows: wrote {args.output}")
    if record["demo"]:
        print(modeling.DEMO_NOTE)


if __name__ == "__main__":
    main()
