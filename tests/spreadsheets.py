"""OpenDocument spreadsheets for tests, written by hand: their XML is what the tests are about."""

import zipfile
from xml.sax.saxutils import escape

NAMESPACES = " ".join(
    f'xmlns:{prefix}="{uri}"'
    for prefix, uri in {
        "office": "urn:oasis:names:tc:opendocument:xmlns:office:1.0",
        "table": "urn:oasis:names:tc:opendocument:xmlns:table:1.0",
        "text": "urn:oasis:names:tc:opendocument:xmlns:text:1.0",
        "calcext": "urn:org:documentfoundation:names:experimental:calc:xmlns:calcext:1.0",
        "dc": "http://purl.org/dc/elements/1.1/",
    }.items()
)


def cell(text, attributes=""):
    """XML of a cell of text, as LibreOffice writes it: spaces beyond one, tabs and lines as elements."""
    paragraphs = []
    for line in text.split("\n"):
        xml = escape(line).replace(" ", "<text:s/>").replace("\t", "<text:tab/>")
        paragraphs.append(f"<text:p>{xml}</text:p>")
    kind = 'office:value-type="string"'
    return f"<table:table-cell {kind} {attributes}>{''.join(paragraphs)}</table:table-cell>"


def row(*cells, times=1):
    """XML of a row of cells, each XML or a text."""
    xml = "".join(part if part.startswith("<table:") else cell(part) for part in cells)
    return f'<table:table-row table:number-rows-repeated="{times}">{xml}</table:table-row>'


def write_ods(path, **sheets):
    """Write the XML rows of each sheet to an .ods file; return its path."""
    body = "".join(
        f'<table:table table:name="{title}">{"".join(rows)}</table:table>'
        for title, rows in sheets.items()
    )
    content = (
        f'<?xml version="1.0" encoding="UTF-8"?><office:document-content {NAMESPACES}><office:body>'
        f"<office:spreadsheet>{body}</office:spreadsheet></office:body></office:document-content>"
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("content.xml", content)
    return path
