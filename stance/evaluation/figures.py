"""Pictures of trainings, evaluations, studies and labelled tables, as PNG files for papers.

Each is as wide as one column or both. Every function takes the path of its PNG and a note for below
the picture, such as loading.read_demo_note gives, or None.
"""

import functools
import io
import logging
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display needed
import matplotlib.font_manager
import matplotlib.ft2font
import matplotlib.pyplot as plt
import matplotlib.text
import matplotlib.ticker

import prompts
from stance.common import files, text_width
from stance.evaluation import result_tables

# ---------------------------------------------------------------- settings
DPI = 300  # dots an inch of every PNG
COLUMN = 3.3  # inches: width of one column
PAGE = 7.0  # inches: width of both columns
# Okabe and Ito's, for the colour-blind.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")  # a second sign beside the colour, for print in grey
HATCHES = ("", "/////", ".....", "xxxxx", "-----", "+++++")  # the same of bars
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.markersize": 3.5,
    "hatch.linewidth": 0.5,
}
# Share of a row of a confusion matrix above which its blue needs white numbers.
DARK_SHARE = 0.65
# Blue, orange, grey: dark to light.
LABEL_COLORS = {"pro": COLORS[0], "con": COLORS[3], "neu": "#DDDDDD"}
TEXT_COLORS = {"pro": "white", "con": "black", "neu": "black"}  # of numbers on them
# Names of font families that go with the pictures' own one.
PLAIN_FONT = re.compile(r"^(?!.*(Mono|Condensed|Display)).*\b(Sans|Gothic|Arial|Hei|YaHei|UI)\b")
# Its glyphs are boxes that name a script: it has every character and can show none.
LAST_RESORT = "Last Resort"
# --------------------------------------------------------------------------

INTERVAL = f"{result_tables.LEVEL_TEXT} interval over rows"
matplotlib.rcParams.update(STYLE)
# Else it tells of each installed font that has no normal weight.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


def plot_training(log: list[dict], path: Path, note: str | None = None) -> None:
    """Draw training loss, validation loss and validation accuracy over optimiser steps.

    log: entries of log.jsonl, {"step", and "loss" or "eval_loss" and "eval_accuracy"}; others are
    passed over.
    """
    figure, (loss_axis, accuracy_axis) = plt.subplots(
        1, 2, figsize=(PAGE, 2.6), sharex=True, layout="constrained"
    )
    validation_style = {"color": COLORS[1], "marker": "o", "linestyle": "--"}
    _plot_entries(loss_axis, log, "loss", "training", {"color": COLORS[0]})
    _plot_entries(loss_axis, log, "eval_loss", "validation", validation_style)
    _plot_entries(accuracy_axis, log, "eval_accuracy", "validation", validation_style)
    loss_axis.set(xlabel="step", ylabel="loss (nats per answer token)", ylim=(0, None))
    accuracy_axis.set(xlabel="step", ylabel="accuracy", ylim=(0, 1.02))
    for axis in (loss_axis, accuracy_axis):
        axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(nbins=6, integer=True))
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    _save(figure, path, note)


def _plot_entries(axis, log, key, label, style):
    """Draw a value of log entries over their steps; nothing if no entry has it."""
    entries = [entry for entry in log if key in entry]
    if entries:
        steps = [entry["step"] for entry in entries]
        values = [entry[key] for entry in entries]
        axis.plot(steps, values, **style, label=label)


def plot_confusion(metrics_of_model: dict[str, dict], path: Path, note: str | None = None) -> None:
    """Draw one confusion matrix for each model side by side: counts and row shares.

    metrics_of_model: {model: metrics.compute_metrics}; rows are gold labels, columns predictions.
    """
    width = COLUMN if len(metrics_of_model) == 1 else PAGE
    figure, axes = plt.subplots(
        1, len(metrics_of_model), figsize=(width, 2.9), squeeze=False, layout="constrained"
    )
    columns = list(prompts.LABELS)
    if any(metrics["invalid"] for metrics in metrics_of_model.values()):
        columns.append("invalid")
    for axis, (name, metrics) in zip(axes[0], metrics_of_model.items(), strict=True):
        counts = [row[: len(columns)] for row in metrics["confusion"]]
        shares = [[count / max(sum(row), 1) for count in row] for row in counts]
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for y, row in enumerate(counts):
            for x, count in enumerate(row):
                share = shares[y][x]
                color = "white" if share > DARK_SHARE else "black"
                axis.text(x, y, f"{count}\n{share:.0%}", ha="center", va="center", color=color)
        axis.set(
            xticks=range(len(columns)),
            xticklabels=columns,
            yticks=range(3),
            yticklabels=prompts.LABELS,
        )
        axis.set(xlabel="predicted", ylabel="gold", title=f"{name} (n = {metrics['n']})")
    _save(figure, path, note)


def plot_shares(
    counts_of_topic: dict[str, Mapping[str, int]], path: Path, note: str | None = None
) -> None:
    """Draw a bar for each topic, divided by the shares of the labels.

    counts_of_topic: {topic: {label: rows}}, the first on top; only labels count.
    """
    figure, axis = plt.subplots(
        figsize=(PAGE, 1.3 + 0.5 * len(counts_of_topic)), layout="constrained"
    )
    names = []
    for y, (topic, counts) in enumerate(counts_of_topic.items()):
        rows = sum(counts.get(label, 0) for label in prompts.LABELS)
        size = f"(n\u00a0=\u00a0{rows:,})"  # spaces at which no line breaks
        short_topic = text_width.shorten_text(topic, 76)
        names.append("\n".join(text_width.wrap_text(f"{short_topic} {size}", 40)))
        left = 0  # where the next part begins
        for label in prompts.LABELS:
            share = counts.get(label, 0) / rows
            axis.barh(
                y,
                share,
                left=left,
                label=label if y == 0 else None,  # once in the legend
                color=LABEL_COLORS[label],
                edgecolor="white",
                linewidth=0.5,  # more would hide small parts
            )
            if share >= 0.06:  # a narrower part has no room for its number
                middle = left + share / 2
                color = TEXT_COLORS[label]
                axis.text(middle, y, f"{share:.0%}", ha="center", va="center", color=color)
            left += share
    axis.set(xlim=(0, 1), xlabel="share of rows")
    # A topic with two dollar signs is no formula.
    axis.set_yticks(range(len(names)), names, parse_math=False)
    axis.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
    axis.invert_yaxis()
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper center", ncols=len(prompts.LABELS), frameon=False)
    _save(figure, path, note)


def plot_estimates(
    estimates: dict[str, dict], path: Path, note: str | None = None, title: str | None = None
) -> None:
    """Draw shares of the labels with intervals, a line for each method or group, a panel a label.

    estimates: {line: {"estimate", "naive": {label: {"value", "interval"}} or None}}, the first on
    top: an estimate is a dot with its interval, a naive share a hollow mark. title: of the lines.
    """
    names = []
    for name in estimates:
        names.append("\n".join(text_width.wrap_text(text_width.shorten_text(name, 60), 32)))
    height = 1.1 + 0.14 * sum(name.count("\n") + 2 for name in names)
    figure, axes = plt.subplots(
        1, len(prompts.LABELS), figsize=(PAGE, height), sharey=True, layout="constrained"
    )
    looks = {"estimate": ("corrected", "o", COLORS[0]), "naive": ("naive", "D", "none")}
    used = {}
    for axis, label in zip(axes, prompts.LABELS, strict=True):
        for y, line in enumerate(estimates.values()):
            for kind, found in line.items():
                if found is None:
                    continue
                _, marker, fill = looks[kind]
                if kind == "estimate":
                    axis.hlines(y, *found[label]["interval"], color=COLORS[0], lw=1.2)
                used[kind] = axis.plot(
                    found[label]["value"], y, marker, color=COLORS[0], markerfacecolor=fill
                )[0]
        axis.set(title=label, ylim=(len(names) - 0.5, -0.5), xlim=(-0.02, 1.02))
        axis.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
        axis.set_xticks([0, 0.5, 1])
        axis.grid(alpha=0.3)
    axes[0].set_yticks(range(len(names)), names, parse_math=False)
    if title:
        axes[0].set_ylabel(text_width.shorten_text(title, 40), parse_math=False)
    if "naive" in used:
        words = [looks[kind][0] for kind in used]
        figure.legend(used.values(), words, loc="outside upper center", ncols=len(words))
    _save(figure, path, note)


def plot_topics(
    statistics_of_model: dict[str, dict[str, dict]], path: Path, note: str | None = None
) -> None:
    """Draw macro-F1 by topic as bars, one colour a model, with bootstrap intervals over rows.

    statistics_of_model: {model: {topic: {"n", "macro_f1": {"value", "rows": [low, high]}}}}; a
    topic may miss in a model. The topics stand in their order, the first on top. Beside a topic stand its different numbers of rows, in the order of
    the models.
    """
    models = len(statistics_of_model)
    known = dict.fromkeys(topic for parts in statistics_of_model.values() for topic in parts)
    topics = list(reversed(known))  # drawn from below
    bar_height = 0.8 / models
    figure_height = 1.1 + len(topics) * max(0.45, 0.17 * models)
    figure, axis = plt.subplots(figsize=(COLUMN, figure_height), layout="constrained")
    for i, (name, parts) in enumerate(statistics_of_model.items()):
        positions = [topics.index(topic) + 0.4 - bar_height * (i + 0.5) for topic in parts]
        values = []
        below = []  # from the low end of each interval to its value
        above = []
        for part in parts.values():
            value = part["macro_f1"]["value"]
            low, high = part["macro_f1"]["rows"]
            values.append(value)
            below.append(max(value - low, 0))
            above.append(max(high - value, 0))
        axis.barh(
            positions,
            values,
            bar_height,
            label=name,
            color=COLORS[i],
            hatch=HATCHES[i],
            edgecolor="white",  # of the hatches
            linewidth=0,
            xerr=[below, above],
            error_kw={"lw": 0.8, "capsize": 1.5},
        )
    names = []
    for topic in topics:
        sizes = []
        for parts in statistics_of_model.values():
            if topic in parts and str(parts[topic]["n"]) not in sizes:
                sizes.append(str(parts[topic]["n"]))
        lines = text_width.wrap_text(topic, 24, most_lines=2)
        names.append("\n".join([*lines, f"n = {', '.join(sizes)}"]))
    axis.set(xlabel=f"macro-F1\n{INTERVAL}", xlim=(0, 1.02))
    # A topic with two dollar signs is no formula.
    axis.set_yticks(range(len(topics)), names, parse_math=False)
    axis.tick_params(axis="y", labelsize=7)
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    legend_columns = 3 if models < 4 else 2
    figure.legend(loc="outside upper center", ncols=legend_columns, columnspacing=1)
    _save(figure, path, note)


def plot_reliability(
    calibration_of_model: dict[str, dict], path: Path, note: str | None = None
) -> None:
    """Draw accuracy against confidence by bins, one panel a model.

    calibration_of_model: {model: analysis.calibrate}; with the fitted temperature too if it is
    there.
    """
    width = COLUMN if len(calibration_of_model) == 1 else PAGE
    figure, axes = plt.subplots(
        1, len(calibration_of_model), figsize=(width, 3.2), squeeze=False, layout="constrained"
    )
    for axis, (name, parts) in zip(axes[0], calibration_of_model.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls=":")
        _plot_bins(axis, parts["test"], "as it is", COLORS[0], MARKERS[0])
        if "scaled" in parts:
            label = f"temperature {parts['temperature']:.2f}"
            _plot_bins(axis, parts["scaled"], label, COLORS[1], MARKERS[1])
        axis.set(xlabel="confidence (area of a mark: share of rows)", ylabel="accuracy", title=name)
        axis.set(xlim=(0.3, 1.02), ylim=(-0.02, 1.02))
        # Below the panel: inside, it would lie on a line wherever it is.
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), borderaxespad=0)
        axis.grid(alpha=0.3)
    _save(figure, path, note)


def _plot_bins(axis, calibration, label, color, marker):
    """Draw the bins of uncertainty.measure_calibration as a line with marks."""
    bins = calibration["bins"]
    confidences = [part["confidence"] for part in bins]
    accuracies = [part["accuracy"] for part in bins]
    rows = sum(part["n"] for part in bins)
    areas = [4 + 80 * part["n"] / rows for part in bins]
    label = f"{label}: ECE {calibration['ece']:.3f}"
    axis.plot(confidences, accuracies, color=color, lw=0.8, label=label)
    axis.scatter(confidences, accuracies, areas, color=color, marker=marker, alpha=0.8)


def plot_coverage(
    curve_of_model: dict[str, list[dict]], path: Path, note: str | None = None
) -> None:
    """Draw accuracy against the share of rows answered: {model: uncertainty.trace_coverage}."""
    figure, axis = plt.subplots(figsize=(COLUMN, 2.4), layout="constrained")
    for i, (name, curve) in enumerate(curve_of_model.items()):
        axis.plot(
            [point["coverage"] for point in curve],
            [point["accuracy"] for point in curve],
            color=COLORS[i],
            lw=1.2,
            label=name,
            marker=MARKERS[i],
            markevery=0.2,
        )
    axis.set(
        xlabel="share of rows answered, most confident first",
        ylabel="accuracy",
        xlim=(0, 1.02),
        ylim=(0, 1.04),
    )
    axis.grid(alpha=0.3)
    axis.legend()
    _save(figure, path, note)


def plot_learning(
    points: dict[int, list[dict]],
    baselines: dict[str, dict[int, float]],
    path: Path,
    note: str | None = None,
) -> None:
    """Draw macro-F1 against training rows: a dot a run, their mean as a line, intervals over rows
    of the first run.

    points: {training rows: [{"value", "rows": [low, high]} of each run]};
    baselines: {name: {training rows: value}}.
    """
    figure, axis = plt.subplots(figsize=(COLUMN, 2.6), layout="constrained")
    sizes = sorted(points)
    means = []
    low_ends = []
    high_ends = []
    for size in sizes:
        runs = points[size]
        means.append(sum(run["value"] for run in runs) / len(runs))
        low, high = runs[0]["rows"]
        low_ends.append(low)
        high_ends.append(high)
    axis.vlines(sizes, low_ends, high_ends, color=COLORS[1], lw=0.8)
    axis.plot(sizes, means, color=COLORS[1], label="fine-tuned")
    for size in sizes:
        values = [run["value"] for run in points[size]]
        axis.plot([size] * len(values), values, MARKERS[1], color=COLORS[1])
    # The look of index 1 is the fine-tuned model's.
    other_colors = (COLORS[0], *COLORS[2:])
    other_markers = (MARKERS[0], *MARKERS[2:])
    for i, (name, value_of_size) in enumerate(baselines.items()):
        color, marker = other_colors[i], other_markers[i]
        baseline_sizes = sorted(value_of_size)
        heights = [value_of_size[size] for size in baseline_sizes]
        axis.plot(baseline_sizes, heights, marker, ls="--", lw=0.9, color=color, label=name)
    axis.set(xlabel="training rows", ylabel=f"macro-F1\n{INTERVAL}", xlim=(0, None), ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, columnspacing=1)
    _save(figure, path, note)


def _save(figure, path, note):
    """Write the PNG, with a note below the picture if there is one, and close the figure."""
    if note:
        width = int(figure.get_figwidth() * 18)  # characters that fit beside each other
        figure.supxlabel(
            "\n".join(text_width.wrap_text(note, width)), fontsize=6.5, color="firebrick"
        )
    missing = _choose_fonts(figure)
    if missing:
        print(
            f"note: {path.name} shows {missing} character{'s' if missing > 1 else ''} as boxes: "
            "no installed font has outlines of them (Noto Sans of their script or, for emoji, "
            "Noto Emoji would)"
        )
    with warnings.catch_warnings():
        # One a character, of those that the note counts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        content = io.BytesIO()  # a PNG is written whole or not at all
        figure.savefig(content, format="png", dpi=DPI, metadata={"Software": None})
    plt.close(figure)
    files.write_bytes(path, [content.getvalue()])


def _choose_fonts(figure):
    """Give the texts of a figure further fonts for characters that theirs lacks; return how many
    different ones no installed font has."""
    texts = figure.findobj(matplotlib.text.Text)
    missing = {ord(character) for text in texts for character in text.get_text()}
    families = list(matplotlib.rcParams["font.family"])
    missing -= read_glyphs(families[0])
    # Line breaks and joiners are not drawn.
    missing = {code for code in missing if chr(code).isprintable() and not chr(code).isspace()}
    if not missing:
        return 0
    for family in list_families():
        found = missing & read_glyphs(family)
        if found:
            families.append(family)
            missing -= found
        if not missing:
            break
    for text in texts:
        text.set_fontfamily(families)
    return len(missing)


@functools.cache
def list_families() -> list[str]:
    """Return the names of the installed font families that can show texts, the plain ones first.

    That is, those without serifs and of a usual width; then alphabetically.
    """
    names = {entry.name for entry in matplotlib.font_manager.fontManager.ttflist}
    names = {name for name in names if not name.startswith(LAST_RESORT)}
    return sorted(names, key=lambda name: (not PLAIN_FONT.search(name), name))


@functools.cache
def read_glyphs(family: str) -> frozenset[int]:
    """Return the code points that a font family has glyphs for; none if it cannot be drawn."""
    try:
        properties = matplotlib.font_manager.FontProperties(family=[family])
        font = matplotlib.ft2font.FT2Font(matplotlib.font_manager.findfont(properties))
    except (OSError, RuntimeError):  # not there any more, or damaged
        return frozenset()
    if not font.scalable:  # a font of pictures, such as emoji
        return frozenset()
    return frozenset(font.get_charmap())
