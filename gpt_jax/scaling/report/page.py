"""Building blocks of the HTML report, and the page that holds them in one file.

The page loads no other file: style, script and figures are inline. The template escapes all text
from data; the only markup from Python is that of the figures.
"""

import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from xml.etree import ElementTree

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup

from gpt_jax.scaling.report.figure_style import RC_PARAMS
from gpt_jax.scaling.report.fit_figures import ReportFigure, RunPoints

NUMBER, TEXT, LONG = 'n', '', 'long'  # classes of a column: right-aligned, left-aligned, wrapped


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of text."""

    kind: ClassVar[str] = 'Paragraph'
    text: str
    css_class: str = ''


@dataclass(frozen=True)
class BulletList:
    """A list of sentences."""

    kind: ClassVar[str] = 'BulletList'
    items: Sequence[str]


@dataclass(frozen=True)
class Column:
    """A column of a table; `tip` is its label in the tooltip of a run, None if not shown there."""

    name: str
    css_class: str = NUMBER
    tip: str | None = None


@dataclass(frozen=True)
class TableRow:
    """A row of a table; `run` is the index of the run that it describes, for the figures' marks."""

    cells: Sequence[str]
    css_class: str = ''
    run: int | None = None


@dataclass(frozen=True)
class Table:
    """A table in a scrolling box."""

    kind: ClassVar[str] = 'Table'
    columns: Sequence[Column]
    rows: Sequence[TableRow]


@dataclass(frozen=True)
class FigureGrid:
    """Figures side by side, each as an SVG for wide and one for narrow screens."""

    kind: ClassVar[str] = 'FigureGrid'
    svgs: Sequence[Markup]


Block = Paragraph | BulletList | Table | FigureGrid


@dataclass(frozen=True)
class Section:
    """A headed part of the page."""

    title: str
    blocks: Sequence[Block]


def make_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    text_columns: Sequence[str] = (),
    long_column: str = '',
) -> Table:
    """Return a table of numbers and text.

    Args:
      headings: names of the columns.
      rows: cells, already formatted.
      text_columns: names of columns that are aligned left; all others hold numbers.
      long_column: name of a column whose cells may wrap; it is left out if all are empty.
    """
    cells = [list(row) for row in rows]
    columns = [Column(name, TEXT if name in text_columns else NUMBER) for name in headings]
    if long_column:
        index = list(headings).index(long_column)
        if any(row[index] for row in cells):
            columns[index] = Column(long_column, LONG)
        else:
            del columns[index]
            for row in cells:
                del row[index]
    return Table(columns, [TableRow(row) for row in cells])


def render_page(
    title: str, summary: Sequence[Block], sections: Sequence[Section], numbers: Any
) -> str:
    """Return the page as HTML.

    Args:
      title: title of the page.
      summary: blocks before the first section.
      sections: parts of the page.
      numbers: JSON-able; embedded in the page, whose button saves them as a file.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('gpt_jax.scaling.report'),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    # A script element has no HTML escapes; JSON has its own for '<'.
    embedded = Markup(json.dumps(numbers, allow_nan=False).replace('<', '\\u003c'))
    page = environment.get_template('page.html.j2').render(
        title=title, summary=summary, sections=sections, numbers=embedded
    )
    return page.encode('utf-8', 'replace').decode()  # a name may hold a lone surrogate


# Figures as inline SVG of a page, with a mark over every run for tooltips.
#
# The marks are placed by the axes' transform instead of the SVG that matplotlib writes, which
# differs between versions. A mark can be larger than its point, for touch screens.

SVG, XLINK = 'http://www.w3.org/2000/svg', 'http://www.w3.org/1999/xlink'
POINTS_PER_INCH = 72
MARK_RADIUS = 5.0  # points
NO_METADATA: dict[str, None] = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
NOT_XML = re.compile(r'[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]')


def embed_figure(drawing: ReportFigure, css_class: str) -> Markup:
    """Return a figure as one <svg> element.

    Args:
      drawing: the figure with the positions of its runs.
      css_class: 'wide' or 'narrow', the screens that show it; ids begin with it and the name, so
        that they are unique in the page.
    """
    figure, prefix = drawing.figure, f'{css_class}-{drawing.name}-'
    buffer = io.StringIO()
    with matplotlib.rc_context(RC_PARAMS):
        figure.savefig(buffer, format='svg', metadata=NO_METADATA)
    ElementTree.register_namespace('', SVG)
    ElementTree.register_namespace('xlink', XLINK)
    # The name of a run may hold characters that XML cannot.
    root = ElementTree.fromstring(NOT_XML.sub('', buffer.getvalue()))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f'{{{SVG}}}style':  # it would apply to the whole page
                parent.remove(child)
        for name, value in parent.attrib.items():
            parent.set(name, _prefix_ids(name, value, prefix))
    for name in ('width', 'height'):
        del root.attrib[name]  # set by the page; the viewBox keeps the proportions
    width, height = (POINTS_PER_INCH * float(inches) for inches in figure.get_size_inches())
    attributes = {
        'class': css_class,
        'role': 'group',
        'aria-label': drawing.name.replace('_', ' '),
        'style': f'flex:1 1 {1.2 * width:.0f}px;max-width:{1.6 * width:.0f}px',
    }
    for name, value in attributes.items():
        root.set(name, value)
    for points in drawing.points:
        root.append(_make_marks(points, height, figure.dpi))
    return Markup(ElementTree.tostring(root, encoding='unicode'))


def _prefix_ids(name: str, value: str, prefix: str) -> str:
    """Return the value of an attribute, with a prefix added to the ids in it."""
    if name == 'id':
        return prefix + value
    if name in ('href', f'{{{XLINK}}}href') and value.startswith('#'):
        return f'#{prefix}{value[1:]}'
    return value.replace('url(#', f'url(#{prefix}')


def _make_marks(points: RunPoints, height: float, dpi: float) -> ElementTree.Element:
    """Make one <g class="run" data-run="INDEX"> per run in the axes, from left to right."""
    attributes = {'class': 'runs', 'tabindex': '0', 'aria-label': 'runs, by arrow keys'}
    group = ElementTree.Element(f'{{{SVG}}}g', attributes)
    pixels = points.axes.transData.transform(np.column_stack([points.x, points.y]))
    box = points.axes.bbox
    for index in np.argsort(pixels[:, 0], kind='stable'):
        if not box.contains(*pixels[index]):
            continue
        x, y = pixels[index] * POINTS_PER_INCH / dpi
        run = {'class': 'run', 'data-run': str(int(points.runs[index]))}
        mark = ElementTree.SubElement(group, f'{{{SVG}}}g', run)
        position = {'cx': f'{x:.1f}', 'cy': f'{height - y:.1f}', 'r': f'{MARK_RADIUS:g}'}
        ElementTree.SubElement(mark, f'{{{SVG}}}circle', position)
    return group
