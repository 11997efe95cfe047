"""How does a figure become part of a page? As SVG whose ids are its own, with a mark over every run that can be hit.

The marks are put where the axes say the runs stand, not read back out of what matplotlib wrote: that changes from
version to version, and a mark can be larger than the point, as a finger wants it.
"""

import io
import re
from xml.etree import ElementTree

import matplotlib
import numpy as np

from gpt_jax.scaling.view.figures import Drawn, Points
from gpt_jax.scaling.view.plots import STYLE

SVG, XLINK = 'http://www.w3.org/2000/svg', 'http://www.w3.org/1999/xlink'
REACH = 5.0  # radius of a mark, in points of 1/72 inch
NO_METADATA: dict[str, None] = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
NOT_XML = re.compile(r'[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]')  # JSON may name a run so


def svg(drawn: Drawn, prefix: str, words: str) -> str:
    """The figure as one <svg> element.

    Args:
      prefix: begins every id, so that two figures of a page have none in common.
      words: what a screen reader says of it.
    """
    written = io.StringIO()
    with matplotlib.rc_context(STYLE):
        drawn.figure.savefig(written, format='svg', metadata=NO_METADATA)
    ElementTree.register_namespace('', SVG)
    ElementTree.register_namespace('xlink', XLINK)
    root = ElementTree.fromstring(NOT_XML.sub('', written.getvalue()))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f'{{{SVG}}}style':  # meant for a file of its own; here it would style the whole page
                parent.remove(child)
        for name, value in parent.attrib.items():
            parent.set(name, _renamed(name, value, prefix))
    for name in ('width', 'height'):
        del root.attrib[name]  # the page gives them; the viewBox keeps the shape
    width, height = (72 * float(inches) for inches in drawn.figure.get_size_inches())
    root.set('role', 'group')
    root.set('aria-label', words)
    root.set('style', f'flex:1 1 {1.2 * width:.0f}px;max-width:{1.6 * width:.0f}px')
    for points in drawn.points:
        root.append(_marks(points, height, drawn.figure.dpi))
    return ElementTree.tostring(root, encoding='unicode')


def _renamed(name: str, value: str, prefix: str) -> str:
    if name == 'id':
        return prefix + value
    if name in ('href', f'{{{XLINK}}}href') and value.startswith('#'):
        return f'#{prefix}{value[1:]}'
    return value.replace('url(#', f'url(#{prefix}')


def _marks(points: Points, height: float, dpi: float) -> ElementTree.Element:
    """One <g class="run" data-run="INDEX"> per run inside the axes, from left to right as the arrow keys take them."""
    group = ElementTree.Element(f'{{{SVG}}}g', {'class': 'runs', 'tabindex': '0', 'aria-label': 'runs, by arrow keys'})
    at = points.axes.transData.transform(np.column_stack([points.x, points.y]))
    box = points.axes.bbox
    for index in np.argsort(at[:, 0], kind='stable'):
        if box.contains(*at[index]):
            x, y = at[index] * 72 / dpi
            mark = ElementTree.SubElement(
                group, f'{{{SVG}}}g', {'class': 'run', 'data-run': str(int(points.runs[index]))}
            )
            where = {'cx': f'{x:.1f}', 'cy': f'{height - y:.1f}', 'r': f'{REACH:g}'}
            ElementTree.SubElement(mark, f'{{{SVG}}}circle', where)
    return group
