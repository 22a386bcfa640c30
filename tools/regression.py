"""Regress the stance of a labelled table on its columns, corrected by a gold sample for the model's errors.

Reads --labelled, a table that predict.py wrote, and --gold, sentences of it that people annotated (tools.sample).
Prints the coefficients by three methods side by side: naive, on the model's labels; on the gold sample alone; and
design-based, on both. Columns of numbers are centred at their mean; of others, each value is compared with the most
frequent one; a date counts as its year. Writes .regression.json beside the table.

    python -m tools.regression --labelled labelled.xlsx --gold gold_sample.xlsx --outcome con --on party year
    python -m tools.regression --labelled labelled.xlsx --gold gold_sample.xlsx --outcome pro --on age --family linear
"""

import sys

try:
    from stance.common import startup  # noqa: F401 - first: what follows takes seconds to load
except ModuleNotFoundError:  # started by its path, a tool has Python look for modules in tools/
    print(
        "error: run it as: python -m tools.regression ... (in the folder that holds tools/)",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

# isort: split
import argparse
import shlex
from pathlib import Path

import prompts
from stance.common import environment, errors, files, flags
from stance.corpus import corpus_flags
from stance.evaluation import design_regression, gold_flags, regression_report

# ---------------------------------------------------------------- settings
FAMILY = "logistic"  # of the regression: logistic (log odds) or linear (shares)
# --------------------------------------------------------------------------


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags; fail on those that do not go together."""
    parser = flags.FlagParser(__doc__)
    gold_flags.add_gold_flags(parser)
    parser.add_argument(
        "--outcome", required=True, choices=prompts.LABELS, help="1 for this label, else 0"
    )
    parser.add_argument(
        "--on", nargs="+", required=True, metavar="HEADER", help="columns of covariates"
    )
    parser.add_argument(
        "--family",
        default=FAMILY,
        choices=design_regression.FAMILIES,
        help="of the regression (%(default)s)",
    )
    args = parser.parse_args(argv)
    gold_flags.check_gold_words(args)
    corpus_flags.check_different("--on", args.on)
    if args.gold is None:
        command = f"python -m tools.sample --labelled {shlex.quote(args.labelled)}"
        errors.fail(
            f"a regression on a model's labels alone is biased: give --gold, from {command}"
        )
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    table, gold = gold_flags.read_flagged(args, args.on)
    result = regression_report.describe_regression(
        table, gold, prompts.LABELS.index(args.outcome), args.family
    )
    print(regression_report.format_regression(result, args.outcome, args.family))
    record = {
        "labelled": {"file": Path(args.labelled).name, "sha256": files.hash_file(args.labelled)},
        "gold": {"file": Path(args.gold).name, "sha256": files.hash_file(args.gold)},
        "outcome": args.outcome,
        "family": args.family,
        **result,
        "environment": environment.describe_environment(),
    }
    stem = Path(args.labelled).with_suffix("")
    output = stem.with_name(f"{stem.name}.regression.json")
    files.write_json(output, record)
    print(f"wrote {output}")


if __name__ == "__main__":
    errors.run_script(main)
