"""Pictures of trainings, evaluations, studies and labelled tables, as PNG files for one or both columns of a paper."""

import textwrap

import matplotlib

matplotlib.use("Agg")  # no display needed
import matplotlib.pyplot as plt
import matplotlib.ticker

import prompts
from stance.evaluation import result_tables

# ---------------------------------------------------------------- settings
DPI = 300  # dots an inch of every PNG
COLUMN, PAGE = 3.3, 7.0  # inches: widths of one column and of both
COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#E69F00",
    "#CC79A7",
    "#56B4E9",
)  # Okabe and Ito's, for the colour-blind
MARKERS = ("o", "s", "^", "D", "v", "P")  # a second sign beside the colour, for print in grey
HATCHES = ("", "/////", ".....", "xxxxx", "-----", "+++++")  # the same of bars
STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.markersize": 3.5,
}
STYLE |= {"hatch.linewidth": 0.5}
DARK_SHARE = 0.65  # of a row of a confusion matrix, from which on white is easier to read on its blue than black
LABEL_COLORS = {
    "pro": COLORS[0],
    "con": COLORS[3],
    "neu": "#DDDDDD",
}  # blue, orange, grey: dark to light
TEXT_COLORS = {"pro": "white", "con": "black", "neu": "black"}  # of numbers on them
# --------------------------------------------------------------------------

INTERVAL = f"{result_tables.LEVEL_TEXT} interval over rows"
matplotlib.rcParams.update(STYLE)


def plot_training(log, path, note=None):
    """Draw training loss, validation loss and validation accuracy over steps, from the entries of log.jsonl."""
    figure, (loss_axis, accuracy_axis) = plt.subplots(
        1, 2, figsize=(PAGE, 2.6), sharex=True, layout="constrained"
    )
    for key, name, axis, style in (
        ("loss", "training", loss_axis, {"color": COLORS[0]}),
        (
            "eval_loss",
            "validation",
            loss_axis,
            {"color": COLORS[1], "marker": "o", "linestyle": "--"},
        ),
        (
            "eval_accuracy",
            "validation",
            accuracy_axis,
            {"color": COLORS[1], "marker": "o", "linestyle": "--"},
        ),
    ):
        points = [(entry["step"], entry[key]) for entry in log if key in entry]
        if points:
            axis.plot(*zip(*points, strict=True), **style, label=name)
    loss_axis.set(xlabel="step", ylabel="loss (nats per answer token)", ylim=(0, None))
    accuracy_axis.set(xlabel="step", ylabel="accuracy", ylim=(0, 1.02))
    for axis in (loss_axis, accuracy_axis):
        axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(nbins=6, integer=True))
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    _save(figure, path, note)


def plot_confusion(metrics_of_model, path, note=None):
    """Draw one confusion matrix for each model side by side: rows gold, columns predicted, counts and row shares."""
    width = COLUMN if len(metrics_of_model) == 1 else PAGE
    figure, axes = plt.subplots(
        1, len(metrics_of_model), figsize=(width, 2.9), squeeze=False, layout="constrained"
    )
    some_invalid = any(metrics["invalid"] for metrics in metrics_of_model.values())
    columns = [*prompts.LABELS, "invalid"] if some_invalid else list(prompts.LABELS)
    for axis, (name, metrics) in zip(axes[0], metrics_of_model.items(), strict=True):
        counts = [row[: len(columns)] for row in metrics["confusion"]]
        shares = [[count / max(sum(row), 1) for count in row] for row in counts]
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for y, row in enumerate(counts):
            for x, count in enumerate(row):
                color = "white" if shares[y][x] > DARK_SHARE else "black"
                axis.text(
                    x, y, f"{count}\n{shares[y][x]:.0%}", ha="center", va="center", color=color
                )
        axis.set(
            xticks=range(len(columns)),
            xticklabels=columns,
            yticks=range(3),
            yticklabels=prompts.LABELS,
        )
        axis.set(xlabel="predicted", ylabel="gold", title=f"{name} (n = {metrics['n']})")
    _save(figure, path, note)


def plot_shares(counts_of_topic, path, note=None):
    """Draw a bar for each topic, divided by the shares of the labels: {topic: {label: rows}}, the first on top."""
    figure, axis = plt.subplots(
        figsize=(PAGE, 1.3 + 0.5 * len(counts_of_topic)), layout="constrained"
    )
    names = []
    for y, (topic, counts) in enumerate(counts_of_topic.items()):
        rows, left = sum(counts.get(label, 0) for label in prompts.LABELS), 0
        size = f"(n\u00a0=\u00a0{rows:,})"  # spaces at which textwrap breaks no line
        names.append(textwrap.fill(f"{textwrap.shorten(topic, 76, placeholder=' ...')} {size}", 40))
        for label in prompts.LABELS:
            share = counts.get(label, 0) / rows
            name = label if y == 0 else None
            look = {
                "color": LABEL_COLORS[label],
                "edgecolor": "white",
                "linewidth": 0.5,
            }  # more would hide small parts
            axis.barh(y, share, left=left, label=name, **look)
            if share >= 0.06:  # a narrower part has no room for its number
                axis.text(
                    left + share / 2,
                    y,
                    f"{share:.0%}",
                    ha="center",
                    va="center",
                    color=TEXT_COLORS[label],
                )
            left += share
    axis.set(xlim=(0, 1), xlabel="share of rows")
    axis.set_yticks(
        range(len(names)), names, parse_math=False
    )  # a topic with two dollar signs is no formula
    axis.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
    axis.invert_yaxis()
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper center", ncols=len(prompts.LABELS), frameon=False)
    _save(figure, path, note)


def plot_topics(statistics_of_model, path, note=None):
    """Draw macro-F1 by topic as bars, one colour a model, with their bootstrap intervals over rows.

    statistics_of_model: {model: {topic: {"n", "macro_f1": {"value", "rows": [low, high]}}}}; a topic may miss in a
    model. Beside a topic stand its different numbers of rows, in the order of the models.
    """
    topics = sorted(
        {topic for parts in statistics_of_model.values() for topic in parts}, reverse=True
    )
    height = 0.8 / len(statistics_of_model)
    size = (COLUMN, 1.1 + len(topics) * max(0.45, 0.17 * len(statistics_of_model)))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    for i, (name, parts) in enumerate(statistics_of_model.items()):
        positions = [topics.index(topic) + 0.4 - height * (i + 0.5) for topic in parts]
        values = [part["macro_f1"]["value"] for part in parts.values()]
        ends = [part["macro_f1"]["rows"] for part in parts.values()]
        below = [max(value - low, 0) for value, (low, _) in zip(values, ends)]
        above = [max(high - value, 0) for value, (_, high) in zip(values, ends)]
        whiskers = {"xerr": [below, above], "error_kw": {"lw": 0.8, "capsize": 1.5}}
        look = {
            "color": COLORS[i],
            "hatch": HATCHES[i],
            "edgecolor": "white",
            "linewidth": 0,
        }  # white: of the hatches
        axis.barh(positions, values, height, label=name, **look, **whiskers)
    names = []
    for topic in topics:
        sizes = dict.fromkeys(
            str(parts[topic]["n"]) for parts in statistics_of_model.values() if topic in parts
        )
        names.append(
            f"{textwrap.fill(topic, 24, max_lines=2, placeholder=' ...')}\nn = {', '.join(sizes)}"
        )
    axis.set(xlabel=f"macro-F1, {INTERVAL}", xlim=(0, 1.02))
    axis.set_yticks(
        range(len(topics)), names, parse_math=False
    )  # a topic with two dollar signs is no formula
    axis.tick_params(axis="y", labelsize=7)
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    figure.legend(
        loc="outside upper center", ncols=3 if len(statistics_of_model) < 4 else 2, columnspacing=1
    )
    _save(figure, path, note)


def plot_reliability(calibration_of_model, path, note=None):
    """Draw accuracy against confidence by bins, one panel a model, as it is and with the fitted temperature."""
    width = COLUMN if len(calibration_of_model) == 1 else PAGE
    figure, axes = plt.subplots(
        1, len(calibration_of_model), figsize=(width, 2.9), squeeze=False, layout="constrained"
    )
    for axis, (name, parts) in zip(axes[0], calibration_of_model.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls=":")
        for i, (key, label) in enumerate((("test", "as it is"), ("scaled", "temperature {:.2f}"))):
            if key in parts:
                bins, label = parts[key]["bins"], label.format(parts.get("temperature", 1))
                points = [[part[side] for part in bins] for side in ("confidence", "accuracy")]
                axis.plot(
                    *points, color=COLORS[i], lw=0.8, label=f"{label}: ECE {parts[key]['ece']:.3f}"
                )
                areas = [
                    4 + 80 * part["n"] / sum(part["n"] for part in bins) for part in bins
                ]  # share of the rows
                axis.scatter(*points, areas, color=COLORS[i], marker=MARKERS[i], alpha=0.8)
        axis.set(xlabel="confidence (area of a mark: share of rows)", ylabel="accuracy", title=name)
        axis.set(xlim=(0.3, 1.02), ylim=(-0.02, 1.02))
        axis.legend(loc="upper left" if len(axes[0]) == 1 else "best")
        axis.grid(alpha=0.3)
    _save(figure, path, note)


def plot_coverage(curve_of_model, path, note=None):
    """Draw accuracy against the share of rows answered, from curves of uncertainty.trace_coverage."""
    figure, axis = plt.subplots(figsize=(COLUMN, 2.4), layout="constrained")
    for i, (name, curve) in enumerate(curve_of_model.items()):
        points = [[point[side] for point in curve] for side in ("coverage", "accuracy")]
        marks = {"marker": MARKERS[i], "markevery": 0.2}
        axis.plot(*points, color=COLORS[i], lw=1.2, label=name, **marks)
    axis.set(
        xlabel="share of rows answered, most confident first",
        ylabel="accuracy",
        xlim=(0, 1.02),
        ylim=(0, 1.04),
    )
    axis.grid(alpha=0.3)
    axis.legend()
    _save(figure, path, note)


def plot_learning(points, baselines, path, note=None):
    """Draw macro-F1 against training rows: a dot a run, their mean as a line, intervals over rows of the first run.

    points: {training rows: [{"value", "rows": [low, high]}, ...]}; baselines: {name: {training rows: value}}.
    """
    figure, axis = plt.subplots(figsize=(COLUMN, 2.6), layout="constrained")
    sizes = sorted(points)
    means = [sum(run["value"] for run in points[size]) / len(points[size]) for size in sizes]
    firsts = [points[size][0] for size in sizes]
    axis.vlines(
        sizes,
        [run["rows"][0] for run in firsts],
        [run["rows"][1] for run in firsts],
        color=COLORS[1],
        lw=0.8,
    )
    axis.plot(sizes, means, color=COLORS[1], label="fine-tuned")
    for size in sizes:
        axis.plot(
            [size] * len(points[size]),
            [run["value"] for run in points[size]],
            MARKERS[1],
            color=COLORS[1],
        )
    for (name, values), color, marker in zip(
        baselines.items(), (COLORS[0], *COLORS[2:]), (MARKERS[0], *MARKERS[2:])
    ):
        heights = [values[size] for size in sorted(values)]
        axis.plot(sorted(values), heights, marker, ls="--", lw=0.9, color=color, label=name)
    axis.set(xlabel="training rows", ylabel=f"macro-F1\n{INTERVAL}", xlim=(0, None), ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, columnspacing=1)
    _save(figure, path, note)


def _save(figure, path, note):
    """Write the PNG; a note such as loading.read_demo_note gives goes below the picture."""
    if note:
        width = int(figure.get_figwidth() * 18)  # characters that fit beside each other
        figure.supxlabel(textwrap.fill(note, width), fontsize=6.5, color="firebrick")
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    plt.close(figure)
