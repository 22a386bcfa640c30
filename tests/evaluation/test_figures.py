"""The pictures: what they say, and that no text in them overlaps another or is cut off."""

import csv
import warnings
from collections import Counter
from pathlib import Path

import fontTools.fontBuilder
import fontTools.pens.ttGlyphPen
import matplotlib.colors
import matplotlib.container
import matplotlib.font_manager
import matplotlib.image
import matplotlib.text
import pytest
from pictures import check_layout, find_texts

from stance.evaluation import figures, metrics

# As long as the note of a demo model.
NOTE = (
    "DEMO: tiny model with random knowledge. These numbers show the plumbing, not stance quality."
)

LOG = [  # entries of two epochs as the trainer writes them
    {"step": 5, "loss": 1.9, "grad_norm": 3.0, "learning_rate": 1e-4, "epoch": 0.5},
    {"step": 10, "loss": 0.8, "grad_norm": 2.0, "learning_rate": 7e-5, "epoch": 1.0},
    {"step": 10, "eval_loss": 0.7, "eval_accuracy": 0.75, "epoch": 1.0},
    {"step": 15, "loss": 0.4, "grad_norm": 1.0, "learning_rate": 3e-5, "epoch": 1.5},
    {"step": 20, "loss": 0.3, "grad_norm": 1.0, "learning_rate": 0.0, "epoch": 2.0},
    {"step": 20, "eval_loss": 0.6, "eval_accuracy": 0.875, "epoch": 2.0},
    {"step": 20, "train_runtime": 12.0, "train_loss": 0.85, "epoch": 2.0},
]

GOLD = ["pro"] * 400 + ["con"] * 300 + ["neu"] * 1300
GUESSES = (
    ["pro"] * 300 + ["con"] * 60 + ["neu"] * 40 + ["con"] * 300 + ["neu"] * 1200 + ["pro"] * 100
)
WITH_INVALID = [*GUESSES[:390], *[None] * 10, *GUESSES[400:]]


@pytest.fixture(autouse=True)
def no_open_figures():
    """Each test starts without figures of a test that failed."""
    figures.plt.close("all")


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, kept as they were saved."""
    kept = []
    with monkeypatch.context() as patch:
        patch.setattr(figures.plt, "close", kept.append)
        yield kept


def read_picture(path):
    """Pixels [height, width, RGB] of a PNG, 0 to 255."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    return (matplotlib.image.imread(path)[:, :, :3] * 255).round().astype(int)


def count_color(pixels, name):
    """Number of pixels of one pure colour."""
    color = [round(part * 255) for part in matplotlib.colors.to_rgb(name)]
    return int((pixels == color).all(axis=2).sum())


def read_cells(axis):
    """The texts in a confusion matrix, by row from the top."""
    cells = {
        (text.get_position()[1], text.get_position()[0]): text.get_text() for text in axis.texts
    }
    rows, columns = 1 + max(y for y, _ in cells), 1 + max(x for _, x in cells)
    return [[cells[y, x] for x in range(columns)] for y in range(rows)]


def read_ticks(axis):
    """Tick labels of a confusion matrix: (columns, rows)."""
    return tuple(
        [label.get_text() for label in labels]
        for labels in (axis.get_xticklabels(), axis.get_yticklabels())
    )


# ---------------------------------------------------------------- fonts

CHINESE = "\u81ea\u884c\u8f66"  # three characters that matplotlib's own font lacks


def make_font(path, text):
    """A font whose glyphs of a text are squares."""
    pen = fontTools.pens.ttGlyphPen.TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(point)
    pen.closePath()
    names = [".notdef", *(f"uni{ord(character):04X}" for character in text)]
    builder = fontTools.fontBuilder.FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(dict(zip(map(ord, text), names[1:], strict=True)))
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    builder.save(path)


@pytest.fixture
def squares(tmp_path, monkeypatch):
    """Name of an installed font that has the first two characters of CHINESE."""
    manager = matplotlib.font_manager.fontManager
    own = [entry for entry in manager.ttflist if entry.name.startswith("DejaVu")]
    monkeypatch.setattr(manager, "ttflist", own)  # whatever else this computer has
    make_font(tmp_path / "squares.ttf", CHINESE[:2])
    manager.addfont(tmp_path / "squares.ttf")
    figures.list_families.cache_clear()
    yield "Squares"
    figures.list_families.cache_clear()


@pytest.mark.filterwarnings("error")
def test_characters_come_from_a_font_that_has_them(tmp_path, squares, drawn, capfd):
    counts = {CHINESE[:2]: {"pro": 1}, "Zoos": {"con": 1}}
    figures.plot_shares(counts, tmp_path / "shares.png")
    assert capfd.readouterr() == ("", "")
    [axis] = drawn[0].axes
    assert axis.get_yticklabels()[0].get_fontfamily() == ["sans-serif", squares]


@pytest.mark.filterwarnings("error")
def test_characters_that_no_font_has_are_counted_in_one_note(tmp_path, squares, capfd):
    counts = {CHINESE: {"pro": 1}, f"{CHINESE[2]}\u200d{CHINESE[2]}": {"con": 1}}
    figures.plot_shares(counts, tmp_path / "shares.png")
    out, err = capfd.readouterr()
    assert out.startswith("note: shares.png shows 1 character as boxes")
    assert out.count("\n") == 1 and err == ""


def test_texts_in_latin_letters_look_for_no_other_font(tmp_path, monkeypatch, drawn):
    monkeypatch.setattr(figures, "list_families", None)
    figures.plot_shares({"Zoos \u2665": {"pro": 1}}, tmp_path / "shares.png")
    [axis] = drawn[0].axes
    assert axis.get_yticklabels()[0].get_fontfamily() == ["sans-serif"]


def test_plain_fonts_come_before_others(monkeypatch):
    names = ["Ani", "Noto Sans Mono", "Noto Sans CJK JP", "Noto Serif", "Microsoft YaHei", "Arial"]
    entries = [matplotlib.font_manager.FontEntry(name=name) for name in [*names, "Last Resort"]]
    monkeypatch.setattr(matplotlib.font_manager.fontManager, "ttflist", entries)
    figures.list_families.cache_clear()
    plain = ["Arial", "Microsoft YaHei", "Noto Sans CJK JP"]
    assert figures.list_families() == [*plain, "Ani", "Noto Sans Mono", "Noto Serif"]
    figures.list_families.cache_clear()


def test_topics_without_spaces_take_no_more_room_than_others(tmp_path, drawn):
    """A Chinese topic is one word to a program that breaks lines at spaces."""
    statistics = {"n": 40, "macro_f1": {"value": 0.5, "rows": [0.4, 0.6]}}
    figures.plot_topics({"base": {"\u5b57" * 60: statistics}}, tmp_path / "topics.png")
    figures.plot_shares({"\u5b57" * 60: {"pro": 1}}, tmp_path / "shares.png")
    names = [figure.axes[0].get_yticklabels()[0].get_text().split("\n") for figure in drawn]
    assert names[0] == ["\u5b57" * 12, "\u5b57" * 10 + " ...", "n = 40"]
    assert names[1][:-1] == ["\u5b57" * 20, "\u5b57" * 16 + " ..."] and names[1][-1].endswith("1)")


# ---------------------------------------------------------------- training


def test_training_picture(tmp_path, drawn):
    figures.plot_training(LOG, tmp_path / "training.png")
    height, width, _ = read_picture(tmp_path / "training.png").shape
    assert 1200 <= width <= 2400 and 400 <= height <= 1200
    losses, accuracies = drawn[0].axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in losses.lines}
    assert lines == {
        "training": [[5, 1.9], [10, 0.8], [15, 0.4], [20, 0.3]],
        "validation": [[10, 0.7], [20, 0.6]],
    }
    assert [line.get_xydata().tolist() for line in accuracies.lines] == [[[10, 0.75], [20, 0.875]]]
    assert accuracies.get_ylim() == (0, 1.02) and losses.get_ylim()[0] == 0
    assert "loss" in losses.get_ylabel() and "accuracy" in accuracies.get_ylabel()
    assert losses.get_xlabel() == accuracies.get_xlabel() == "step"
    check_layout(drawn[0])


def test_training_picture_of_a_long_run(tmp_path, drawn):
    log = [{"step": step, "loss": 120.0 / step} for step in range(5, 30_000, 5)]
    log += [
        {"step": step, "eval_loss": 0.5, "eval_accuracy": 1.0}
        for step in range(10_000, 30_001, 10_000)
    ]
    figures.plot_training(log, tmp_path / "training.png", NOTE)
    check_layout(drawn[0])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "log", [LOG[:2], LOG[2:3], []], ids=["no validation", "no training loss", "nothing"]
)
def test_training_picture_of_a_short_log(tmp_path, log):
    figures.plot_training(log, tmp_path / "training.png")
    assert read_picture(tmp_path / "training.png").size


# ---------------------------------------------------------------- confusion


def test_confusion_picture(tmp_path, drawn):
    base = metrics.compute_metrics(GOLD, GUESSES)
    tuned = metrics.compute_metrics(GOLD, GOLD)
    figures.plot_confusion({"base": base, "fine-tuned": tuned}, tmp_path / "confusion.png")
    height, width, _ = read_picture(tmp_path / "confusion.png").shape
    assert 1000 <= width <= 2400 and 500 <= height <= 1200
    left, right = drawn[0].axes
    assert (left.get_title(), right.get_title()) == ("base (n = 2000)", "fine-tuned (n = 2000)")
    assert read_ticks(left) == read_ticks(right) == (["pro", "con", "neu"], ["pro", "con", "neu"])
    assert (left.get_xlabel(), left.get_ylabel()) == ("predicted", "gold")
    assert read_cells(left) == [
        ["300\n75%", "60\n15%", "40\n10%"],
        ["0\n0%", "300\n100%", "0\n0%"],
        ["100\n8%", "0\n0%", "1200\n92%"],
    ]
    assert read_cells(right) == [
        ["400\n100%", "0\n0%", "0\n0%"],
        ["0\n0%", "300\n100%", "0\n0%"],
        ["0\n0%", "0\n0%", "1300\n100%"],
    ]
    check_layout(drawn[0])


def test_the_colour_of_a_cell_is_its_share_of_the_row(tmp_path, drawn):
    gold, predicted = (
        ["pro"] * 8 + ["con"] * 4,
        ["pro"] * 4 + ["con"] * 2 + ["neu"] * 2 + ["pro"] * 2 + ["con"] * 2,
    )
    figures.plot_confusion(
        {"base": metrics.compute_metrics(gold, predicted)}, tmp_path / "confusion.png"
    )
    image = drawn[0].axes[0].images[0]
    shares = [4 / 8, 2 / 8, 2 / 8, 2 / 4, 2 / 4, 0, 0, 0, 0]
    assert image.get_array().flatten().tolist() == pytest.approx(shares)
    assert image.get_clim() == (0, 1)  # the same blue means the same share in both pictures


def test_confusion_picture_with_invalid_answers(tmp_path, drawn):
    base, tuned = (
        metrics.compute_metrics(GOLD, WITH_INVALID),
        metrics.compute_metrics(GOLD, GUESSES),
    )
    figures.plot_confusion({"base": base, "fine-tuned": tuned}, tmp_path / "confusion.png", NOTE)
    left, right = drawn[0].axes
    # The same columns in both, so that the cells line up.
    assert (
        read_ticks(left)
        == read_ticks(right)
        == (["pro", "con", "neu", "invalid"], ["pro", "con", "neu"])
    )
    assert read_cells(left)[0] == ["300\n75%", "60\n15%", "30\n8%", "10\n2%"]
    check_layout(drawn[0])


@pytest.mark.filterwarnings("error")
def test_confusion_picture_of_one_small_model(tmp_path, drawn):
    only = metrics.compute_metrics(["pro", "pro"], ["pro", None])
    figures.plot_confusion({"base": only}, tmp_path / "confusion.png", NOTE)
    assert read_cells(drawn[0].axes[0]) == [
        ["1\n50%", "0\n0%", "0\n0%", "1\n50%"],
        ["0\n0%", "0\n0%", "0\n0%", "0\n0%"],
        ["0\n0%", "0\n0%", "0\n0%", "0\n0%"],
    ]
    check_layout(drawn[0])


@pytest.mark.parametrize(
    "guesses", [GUESSES, ["pro"] * 220 + ["con"] * 1780]
)  # 55 % of a row: a middling blue
def test_numbers_stand_out_from_their_cells(tmp_path, drawn, guesses):
    figures.plot_confusion(
        {"base": metrics.compute_metrics(GOLD, guesses)}, tmp_path / "confusion.png"
    )
    axis = drawn[0].axes[0]
    shades = axis.images[0].to_rgba(axis.images[0].get_array())[:, :, :3]
    for text in axis.texts:
        x, y = text.get_position()
        colors = shades[y, x], matplotlib.colors.to_rgb(text.get_color())
        cell, number = [
            0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in colors
        ]
        assert abs(cell - number) > 0.45


# ---------------------------------------------------------------- shares

COUNTS = {  # by topic, the first with two dollar signs, which are no formula
    "From $7 to $15 is too much.": {"pro": 30, "con": 60, "neu": 10, "review": 3},
    "A topic so long that it takes more than one line, and then some more words that nobody reads.": {
        "con": 1
    },
    "Vegans are right.": {"pro": 97_000, "con": 2_000, "neu": 1_000},
}


def test_shares_picture(tmp_path, drawn):
    figures.plot_shares(COUNTS, tmp_path / "shares.png", NOTE)
    height, width, _ = read_picture(tmp_path / "shares.png").shape
    assert 1200 <= width <= 2400 and 400 <= height <= 1200
    [axis] = drawn[0].axes
    shown = [bar for bar in axis.patches if bar.get_width()]
    bars = [(bar.get_y() + bar.get_height() / 2, bar.get_x(), bar.get_width()) for bar in shown]
    expected = [
        (0, 0, 0.3),
        (0, 0.3, 0.6),
        (0, 0.9, 0.1),
        (1, 0, 1),
        (2, 0, 0.97),
        (2, 0.97, 0.02),
        (2, 0.99, 0.01),
    ]
    assert bars == [pytest.approx(bar) for bar in expected]
    assert [text.get_text() for text in axis.texts] == ["30%", "60%", "10%", "100%", "97%"]
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert (
        names[0] == "From $7 to $15 is too much. (n\u00a0=\u00a0100)"
        and "(n\u00a0=\u00a0100,000)" in names[2]
    )
    assert "\n" in names[1] and "..." in names[1]
    assert not any(label.get_parse_math() for label in axis.get_yticklabels())
    low, high = axis.get_ylim()
    assert low > high  # the first topic is on top
    [legend] = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["pro", "con", "neu"]
    check_layout(drawn[0])


@pytest.mark.parametrize("topics", [1, 21])
def test_shares_picture_of_few_and_many_topics(tmp_path, drawn, topics):
    counts = {
        f"Topic {number} is a claim that some people make.": Counter(pro=number + 1)
        for number in range(topics)
    }
    figures.plot_shares(counts, tmp_path / "shares.png", NOTE)
    check_layout(drawn[0])


# ---------------------------------------------------------------- corrected shares


def describe_labels(*values):
    """An estimate of the three labels, each with an interval of 0.1 to both sides."""
    return {
        label: {"value": value, "interval": [max(value - 0.1, 0), min(value + 0.1, 1)]}
        for label, value in zip(("pro", "con", "neu"), values, strict=True)
    }


def test_picture_of_corrected_shares(tmp_path, drawn):
    naive = describe_labels(0.1, 0.3, 0.6)
    estimates = {
        "From $7 to $15 is too much. (n = 100)": {
            "estimate": describe_labels(0.2, 0.3, 0.5),
            "naive": naive,
        },
        "A group with no interval of its own (n = 3)": {"estimate": None, "naive": naive},
    }
    figures.plot_estimates(estimates, tmp_path / "shares.png", NOTE, title="topic")
    height, width, _ = read_picture(tmp_path / "shares.png").shape
    assert 1200 <= width <= 2400 and 300 <= height <= 1200
    assert [axis.get_title() for axis in drawn[0].axes] == ["pro", "con", "neu"]
    pro = drawn[0].axes[0]
    dots = [line.get_xydata().tolist() for line in pro.lines]
    assert dots == [[[0.2, 0]], [[0.1, 0]], [[0.1, 1]]]
    [interval] = [segments.tolist() for part in pro.collections for segments in part.get_segments()]
    assert interval == [pytest.approx([0.1, 0]), pytest.approx([0.3, 0])]
    [legend] = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["corrected", "naive"]
    low, high = pro.get_ylim()
    assert low > high  # the first group is on top
    check_layout(drawn[0])


@pytest.mark.slow
@pytest.mark.parametrize("groups", [1, 4, 21])
def test_picture_of_corrected_shares_of_any_number_of_groups(groups, tmp_path, drawn):
    estimates = {
        f"Topic {number} is a claim that some people make. (n = 1,000)": {
            "estimate": describe_labels(0.2, 0.3, 0.5),
            "naive": describe_labels(0.1, 0.3, 0.6),
        }
        for number in range(groups)
    }
    figures.plot_estimates(estimates, tmp_path / "shares.png", title="topic")
    check_layout(drawn[0])


# ---------------------------------------------------------------- topics

TOPICS = (
    "Vegans are right.",
    "We need to act against climate change now, and whoever denies it has not read a single one of the reports on it.",
)


def describe(value, low, high, n=40):
    return {"n": n, "macro_f1": {"value": value, "rows": [low, high]}}


TOPIC_NUMBERS = {
    "base": {TOPICS[0]: describe(0.2, 0.1, 0.4), TOPICS[1]: describe(0.3, 0.25, 0.3)},
    "fine-tuned": {TOPICS[0]: describe(0.9, 0.8, 1.0), TOPICS[1]: describe(1.0, 1.0, 1.0)},
}


def find_bars(axis):
    """The bars of a picture, model by model."""
    return [part for part in axis.containers if isinstance(part, matplotlib.container.BarContainer)]


def test_topics_picture(tmp_path, drawn):
    figures.plot_topics(TOPIC_NUMBERS, tmp_path / "topics.png", NOTE)
    [axis] = drawn[0].axes
    assert {
        bars.get_label(): [bar.get_width() for bar in bars.patches] for bars in find_bars(axis)
    } == {
        "base": [0.2, 0.3],
        "fine-tuned": [0.9, 1.0],
    }
    ends = [
        path.vertices[:, 0].tolist() for lines in axis.collections for path in lines.get_paths()
    ]
    assert [pytest.approx(end) for end in ends] == [[0.1, 0.4], [0.25, 0.3], [0.8, 1.0], [1.0, 1.0]]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert (
        labels[1] == f"{TOPICS[0]}\nn = 40"
        and labels[0].endswith(" ...\nn = 40")
        and labels[0].count("\n") == 2
    )
    heights = [bar.get_y() for bars in find_bars(axis) for bar in bars.patches]
    assert (
        heights[0] > heights[2] > heights[1]
    )  # alphabetically from the top, the base above the adapter
    check_layout(drawn[0])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("models, topics", [(1, 1), (3, 1), (3, 12), (4, 2)])
def test_topics_picture_of_few_and_many(tmp_path, drawn, models, topics):
    parts = {f"Topic number {j}.": describe(0.5, 0.4, 0.6) for j in range(topics)}
    numbers = {f"model {i}": parts for i in range(models)}
    figures.plot_topics(numbers, tmp_path / "topics.png", NOTE)
    check_layout(drawn[0])


def test_models_may_have_answered_other_numbers_of_rows(tmp_path, drawn):
    topic = "From $7 to $15 is too much."  # no formula
    numbers = {
        name: {topic: describe(0.5, 0.4, 0.6, n)} for name, n in (("a", 144), ("b", 144), ("c", 15))
    }
    figures.plot_topics(numbers, tmp_path / "topics.png")
    [label] = drawn[0].axes[0].get_yticklabels()
    assert (
        " ".join(label.get_text().split()) == f"{topic} n = 144, 15" and not label.get_parse_math()
    )
    assert (
        len({bars.patches[0].get_hatch() for bars in find_bars(drawn[0].axes[0])}) == 3
    )  # for print in grey
    check_layout(drawn[0])


def test_a_topic_may_miss_in_a_model(tmp_path, drawn):
    numbers = {"base": TOPIC_NUMBERS["base"], "in-topic": {TOPICS[0]: describe(0.9, 0.8, 1.0)}}
    figures.plot_topics(numbers, tmp_path / "topics.png")
    bars = [bar for bars in find_bars(drawn[0].axes[0]) for bar in bars.patches]
    assert (
        len(bars) == 3
        and bars[2].get_y() == pytest.approx(1 - 0.4)
        and bars[0].get_y() == pytest.approx(1)
    )


# ---------------------------------------------------------------- reliability, coverage, learning

BINS = [
    {"n": 30, "confidence": 0.45, "accuracy": 0.4},
    {"n": 10, "confidence": 0.9, "accuracy": 0.7},
]
CALIBRATION = {
    "test": {"ece": 0.123, "bins": BINS},
    "temperature": 1.75,
    "scaled": {"ece": 0.02, "bins": BINS[:1]},
}
CURVE = [
    {"coverage": 0.25, "accuracy": 1.0},
    {"coverage": 0.5, "accuracy": 0.75},
    {"coverage": 1.0, "accuracy": 0.5},
]


def test_reliability_picture(tmp_path, drawn):
    numbers = {"base": CALIBRATION, "fine-tuned": {"test": CALIBRATION["test"]}}
    figures.plot_reliability(numbers, tmp_path / "x.png", NOTE)
    left, right = drawn[0].axes
    assert (left.get_title(), right.get_title()) == ("base", "fine-tuned")
    lines = {
        line.get_label(): line.get_xydata().tolist() for line in left.lines[1:]
    }  # the first is the diagonal
    assert "share of rows" in left.get_xlabel()
    assert left.lines[0].get_xydata().tolist() == [[0, 0], [1, 1]]
    assert lines == {
        "as it is: ECE 0.123": [[0.45, 0.4], [0.9, 0.7]],
        "temperature 1.75: ECE 0.020": [[0.45, 0.4]],
    }
    areas = left.collections[0].get_sizes()
    assert areas[0] - 4 == pytest.approx(3 * (areas[1] - 4))  # as many rows as a bin holds
    assert len(right.lines) == 2
    check_layout(drawn[0])
    for axis in (left, right):  # no line runs through a legend
        assert axis.get_legend().get_window_extent().y1 < axis.get_window_extent().y0


def test_coverage_picture(tmp_path, drawn):
    figures.plot_coverage({"base": CURVE, "fine-tuned": CURVE[1:]}, tmp_path / "x.png", NOTE)
    [axis] = drawn[0].axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axis.lines}
    assert lines == {
        "base": [[0.25, 1], [0.5, 0.75], [1, 0.5]],
        "fine-tuned": [[0.5, 0.75], [1, 0.5]],
    }
    assert axis.get_ylabel() == "accuracy" and "answered" in axis.get_xlabel()
    check_layout(drawn[0])


POINTS = {
    100: [{"value": 0.4, "rows": [0.3, 0.5]}, {"value": 0.5, "rows": [0.1, 0.9]}],
    400: [{"value": 0.7, "rows": [0.6, 0.8]}, {"value": 0.8, "rows": [0.1, 0.9]}],
}


def test_learning_picture(tmp_path, drawn):
    baselines = {"base": {100: 0.2, 400: 0.2}, "tf-idf": {100: 0.3, 400: 0.5}}
    figures.plot_learning(POINTS, baselines, tmp_path / "x.png", NOTE)
    [axis] = drawn[0].axes
    named = [line for line in axis.lines if not line.get_label().startswith("_")]
    assert {line.get_label(): line.get_xydata().tolist() for line in named} == {
        "fine-tuned": [[100, pytest.approx(0.45)], [400, pytest.approx(0.75)]],
        "base": [[100, 0.2], [400, 0.2]],
        "tf-idf": [[100, 0.3], [400, 0.5]],
    }
    dots = [line.get_xydata().tolist() for line in axis.lines if line.get_label().startswith("_")]
    assert dots == [[[100, 0.4], [100, 0.5]], [[400, 0.7], [400, 0.8]]]
    assert axis.get_ylabel() == "macro-F1\n95 % interval over rows"
    assert [path.vertices.tolist() for path in axis.collections[0].get_paths()] == [
        [[100, 0.3], [100, 0.5]], [[400, 0.6], [400, 0.8]],
    ]  # fmt: skip
    check_layout(drawn[0])


# ---------------------------------------------------------------- all


@pytest.mark.parametrize("draw, width", [
    (lambda path: figures.plot_training(LOG, path), figures.PAGE),
    (lambda path: figures.plot_confusion({"base": metrics.compute_metrics(GOLD, GUESSES)}, path), figures.COLUMN),
    (lambda path: figures.plot_topics(TOPIC_NUMBERS, path), figures.COLUMN),
    (lambda path: figures.plot_reliability({"base": CALIBRATION, "fine-tuned": CALIBRATION}, path), figures.PAGE),
    (lambda path: figures.plot_coverage({"base": CURVE}, path), figures.COLUMN),
    (lambda path: figures.plot_learning(POINTS, {}, path), figures.COLUMN),
])  # fmt: skip
def test_pictures_fit_a_column_or_a_page_and_can_be_read(tmp_path, drawn, draw, width):
    """In print no text is below 6 points; a wider picture would be scaled down, and its text with it."""
    draw(tmp_path / "x.png")
    assert drawn[0].get_figwidth() == width
    assert read_picture(tmp_path / "x.png").shape[1] == round(width * figures.DPI)
    assert min(text.get_fontsize() for text in find_texts(drawn[0])) >= 6


def test_colours_are_those_of_okabe_and_ito():
    """Safe for the colour-blind: https://jfly.uni-koeln.de/color/"""
    published = {
        "#000000",
        "#E69F00",
        "#56B4E9",
        "#009E73",
        "#F0E442",
        "#0072B2",
        "#D55E00",
        "#CC79A7",
    }
    assert set(figures.COLORS) <= published and len(set(figures.COLORS)) == 6
    assert len(set(figures.MARKERS)) == len(set(figures.HATCHES)) == 6


PICTURES = [
    pytest.param(lambda path, *note: figures.plot_training(LOG, path, *note), id="training"),
    pytest.param(
        lambda path, *note: figures.plot_confusion(
            {"base": metrics.compute_metrics(GOLD, GUESSES)}, path, *note
        ),
        id="confusion",
    ),
    pytest.param(lambda path, *note: figures.plot_shares(COUNTS, path, *note), id="shares"),
    pytest.param(lambda path, *note: figures.plot_topics(TOPIC_NUMBERS, path, *note), id="topics"),
    pytest.param(
        lambda path, *note: figures.plot_reliability({"base": CALIBRATION}, path, *note),
        id="reliability",
    ),
    pytest.param(
        lambda path, *note: figures.plot_coverage({"base": CURVE}, path, *note), id="coverage"
    ),
    pytest.param(lambda path, *note: figures.plot_learning(POINTS, {}, path, *note), id="learning"),
]


@pytest.mark.slow
@pytest.mark.parametrize("draw", PICTURES)
def test_a_note_is_in_the_picture(tmp_path, drawn, draw):
    draw(tmp_path / "plain.png")
    draw(tmp_path / "noted.png", NOTE)
    plain, noted = drawn
    assert plain.get_supxlabel() == ""
    assert (
        " ".join(noted.get_supxlabel().split()) == NOTE
    )  # over several lines where the picture is narrow
    assert count_color(read_picture(tmp_path / "plain.png"), "firebrick") == 0
    assert count_color(read_picture(tmp_path / "noted.png"), "firebrick") > 200
    check_layout(noted)


@pytest.mark.slow
@pytest.mark.parametrize("draw", PICTURES)
def test_a_picture_is_the_same_each_time_and_closed(tmp_path, draw):
    draw(tmp_path / "one.png", NOTE)
    draw(tmp_path / "two.png", NOTE)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert b"Matplotlib" not in (tmp_path / "one.png").read_bytes()
    assert figures.plt.get_fignums() == []


def test_topics_in_many_scripts_give_no_warning_and_one_note_at_most(tmp_path, capsys):
    path = Path(__file__).resolve().parents[1] / "corpus" / "cases" / "r10.csv"
    with open(path, encoding="utf-8-sig") as file:
        topics = {row["topic"] for row in csv.DictReader(file)}
    assert topics and not all(map(str.isascii, topics))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.plot_shares(
            {topic: Counter(pro=2, con=1) for topic in topics}, tmp_path / "s.png", None
        )
    assert capsys.readouterr().out.count("note: ") <= 1
    assert (tmp_path / "s.png").stat().st_size > 1000
