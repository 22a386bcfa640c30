"""What every picture must hold to: texts lie on the canvas and clear of each other."""

import itertools

import matplotlib.text


def find_texts(figure):
    """The texts that are visible in a figure: matplotlib keeps labels of ticks outside the view, undrawn."""
    texts = {
        text
        for text in figure.findobj(matplotlib.text.Text)
        if text.get_visible() and text.get_text().strip()
    }
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            outside = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
            texts -= {text for tick in outside for text in (tick.label1, tick.label2)}
    return texts


def check_layout(figure):
    """Every text lies on the canvas and clear of the others; half a pixel is rounding."""
    figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent()) for text in find_texts(figure)]
    assert boxes
    for name, box in boxes:
        assert figure.bbox.x0 - 0.5 <= box.x0 and box.x1 <= figure.bbox.x1 + 0.5, (
            f"{name!r} is cut off"
        )
        assert figure.bbox.y0 - 0.5 <= box.y0 and box.y1 <= figure.bbox.y1 + 0.5, (
            f"{name!r} is cut off"
        )
    for (name, box), (other, other_box) in itertools.combinations(boxes, 2):
        wide = min(box.x1, other_box.x1) - max(box.x0, other_box.x0)
        high = min(box.y1, other_box.y1) - max(box.y0, other_box.y0)
        assert wide <= 0.5 or high <= 0.5, f"{name!r} and {other!r} overlap"
