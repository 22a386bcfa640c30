"""Say what share of a labelled table is pro, con and neu, corrected by a gold sample, with intervals that hold.

Reads --labelled, a table that predict.py wrote, and --gold, sentences of it that people annotated (tools.sample draws
them). Without --gold, the shares are uncorrected, and it says what to draw.
Prints the shares by four methods side by side, by the groups of --by, and the differences between these.
Writes beside the table .shares.json (all numbers) and .shares.png, and a picture more for each column of --by.
A date in a column of --by counts as its year.

    python -m tools.shares --labelled labelled.xlsx
    python -m tools.shares --labelled labelled.xlsx --gold gold_sample.xlsx --by topic year
    python -m tools.shares --labelled labelled.xlsx --gold coded.csv --annotator-columns anna ben carl
"""

import sys

try:
    from stance.common import startup  # noqa: F401 - first: what follows takes seconds to load
except ModuleNotFoundError:  # started by its path, a tool has Python look for modules in tools/
    print(
        "error: run it as: python -m tools.shares ... (in the folder that holds tools/)",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

# isort: split
import argparse
import shlex
from pathlib import Path

from stance.common import environment, errors, files, flags
from stance.corpus import corpus_flags
from stance.evaluation import figures, gold_flags, share_report

# ---------------------------------------------------------------- settings
BY = ()  # headers of columns, for whose groups shares are given too
# --------------------------------------------------------------------------


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags; fail on those that do not go together."""
    parser = flags.FlagParser(__doc__)
    gold_flags.add_gold_flags(parser)
    parser.add_argument(
        "--by", nargs="+", default=BY, metavar="HEADER", help="columns of groups, as topic year"
    )
    args = parser.parse_args(argv)
    gold_flags.check_gold_words(args)
    corpus_flags.check_different("--by", args.by)
    return args


def draw_pictures_of_shares(result: dict, stem: Path) -> list[str]:
    """Draw the shares of the table, and of the groups of each column; return the files' names."""
    domain = result["table"]
    methods = {}
    for method, shares in domain["shares"].items():
        if shares is not None:
            methods[share_report.METHOD_NAMES[method]] = {"estimate": shares, "naive": None}
    uncorrected = "uncorrected shares of a model's labels"
    note = None if result["power"] is not None else uncorrected
    paths = [stem.with_name(f"{stem.name}.shares.png")]
    figures.plot_estimates(methods, paths[0], note)
    for number, (column, groups) in enumerate(result["groups"].items(), start=1):
        shown = {}
        for name, group in groups.items():
            corrected = group["shares"].get("prediction_powered")
            shown[f"{name} (n\u00a0=\u00a0{group['rows']:,})"] = {
                "estimate": corrected,
                "naive": group["shares"]["naive"],
            }
        is_corrected = any(one["estimate"] is not None for one in shown.values())
        paths.append(stem.with_name(f"{stem.name}.shares-{number}.png"))
        note = None if is_corrected else uncorrected
        figures.plot_estimates(shown, paths[-1], note, title=column)
    return [path.name for path in paths]


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    table, gold = gold_flags.read_flagged(args, args.by)
    result = share_report.ShareReport(table, gold).describe()
    print(share_report.format_shares(result))
    if gold is None:
        by = f" --by {shlex.join(args.by)}" if args.by else ""
        print(
            "\nthese shares are not corrected for the model's errors: draw and annotate a sample,"
        )
        print(f"    python -m tools.sample --labelled {shlex.quote(args.labelled)}{by}")
        print("then give it with --gold")
    stem = Path(args.labelled).with_suffix("")
    record = {
        "labelled": {"file": Path(args.labelled).name, "sha256": files.hash_file(args.labelled)},
        "gold": args.gold and {"file": Path(args.gold).name, "sha256": files.hash_file(args.gold)},
        **result,
        "environment": environment.describe_environment(),
    }
    output = stem.with_name(f"{stem.name}.shares.json")
    files.write_json(output, record)
    names = draw_pictures_of_shares(result, stem)
    print(f"wrote {output} and {', '.join(names)}")


if __name__ == "__main__":
    errors.run_script(main)
