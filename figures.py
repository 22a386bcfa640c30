"""Pictures as PNG files: loss curve of a training, confusion matrices of an evaluation, stances of a labelled table."""

import textwrap

import matplotlib

matplotlib.use("Agg")  # no display needed
import matplotlib.pyplot as plt  # noqa: E402
import matplotlib.ticker  # noqa: E402

import prompts  # noqa: E402

# ---------------------------------------------------------------- settings
DPI = 200  # dots an inch of every PNG
LABEL_COLORS = {"pro": "#0072B2", "con": "#E69F00", "neu": "#BBBBBB"}  # blue, orange, grey; safe for the colour-blind
TEXT_COLORS = {"pro": "white", "con": "black", "neu": "black"}  # of numbers on them
# --------------------------------------------------------------------------


def plot_training(log, path, note=None):
    """Draw training loss, validation loss and validation accuracy over steps, from the entries of log.jsonl."""
    figure, (loss_axis, accuracy_axis) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for key, name, axis, style in (
        ("loss", "training", loss_axis, "C0-"),
        ("eval_loss", "validation", loss_axis, "C1o--"),
        ("eval_accuracy", "validation", accuracy_axis, "C1o--"),
    ):
        points = [(entry["step"], entry[key]) for entry in log if key in entry]
        if points:
            axis.plot(*zip(*points, strict=True), style, label=name, markersize=4)
    loss_axis.set(xlabel="step", ylabel="loss (nats per answer token)", ylim=(0, None))
    accuracy_axis.set(xlabel="step", ylabel="accuracy", ylim=(0, 1.02))
    for axis in (loss_axis, accuracy_axis):
        axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(nbins=6, integer=True))
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(frameon=False)
    _save(figure, path, note)


def plot_confusion(metrics_of_model, path, note=None):
    """Draw one confusion matrix for each model side by side: rows gold, columns predicted, counts and row shares."""
    figure, axes = plt.subplots(
        1, len(metrics_of_model), figsize=(3.6 * len(metrics_of_model), 3.4), squeeze=False, layout="constrained"
    )
    some_invalid = any(metrics["invalid"] for metrics in metrics_of_model.values())
    columns = [*prompts.LABELS, "invalid"] if some_invalid else list(prompts.LABELS)
    for axis, (name, metrics) in zip(axes[0], metrics_of_model.items(), strict=True):
        counts = [row[: len(columns)] for row in metrics["confusion"]]
        shares = [[count / max(sum(row), 1) for count in row] for row in counts]
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for y, row in enumerate(counts):
            for x, count in enumerate(row):
                color = "white" if shares[y][x] > 0.5 else "black"
                axis.text(x, y, f"{count}\n{shares[y][x]:.0%}", ha="center", va="center", color=color)
        axis.set(xticks=range(len(columns)), xticklabels=columns, yticks=range(3), yticklabels=prompts.LABELS)
        axis.set(xlabel="predicted", ylabel="gold", title=f"{name} (n = {metrics['n']})")
    _save(figure, path, note)


def plot_shares(counts_of_topic, path, note=None):
    """Draw a bar for each topic, divided by the shares of the labels: {topic: {label: rows}}, the first on top."""
    figure, axis = plt.subplots(figsize=(8, 1.3 + 0.5 * len(counts_of_topic)), layout="constrained")
    names = []
    for y, (topic, counts) in enumerate(counts_of_topic.items()):
        rows, left = sum(counts.get(label, 0) for label in prompts.LABELS), 0
        names.append(textwrap.fill(f"{textwrap.shorten(topic, 76, placeholder=' ...')} (n = {rows:,})", 40))
        for label in prompts.LABELS:
            share = counts.get(label, 0) / rows
            axis.barh(y, share, left=left, color=LABEL_COLORS[label], label=label if y == 0 else None)
            if share >= 0.06:  # a narrower part has no room for its number
                axis.text(left + share / 2, y, f"{share:.0%}", ha="center", va="center", color=TEXT_COLORS[label])
            left += share
    axis.set(xlim=(0, 1), xlabel="share of rows")
    axis.set_yticks(range(len(names)), names, parse_math=False)  # a topic with two dollar signs is no formula
    axis.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
    axis.invert_yaxis()
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper center", ncols=len(prompts.LABELS), frameon=False)
    _save(figure, path, note)


def _save(figure, path, note):
    """Write the PNG; a note such as modeling.DEMO_NOTE goes below the picture."""
    if note:
        width = int(figure.get_figwidth() * 16)  # characters that fit beside each other
        figure.supxlabel(textwrap.fill(note, width), fontsize=7, color="firebrick")
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    plt.close(figure)
