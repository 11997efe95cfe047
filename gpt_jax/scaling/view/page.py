"""How does a page stay one file that opens anywhere? Its blocks, style and script: all inline, all text escaped.

Nothing here knows a law or a run. What comes from data goes through `text`; only the blocks below make markup, and the
type Html keeps the two apart.
"""

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any, NewType

Html = NewType('Html', str)

STYLE = """
body { margin: 0 auto; max-width: 1180px; padding: 12px 16px 48px; color: #1d2733; background: #fff;
  font: 16px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.6em; line-height: 1.25; margin: .4em 0 } h2 { font-size: 1.2em; margin: 1.8em 0 .4em }
p, ul { max-width: 46em; margin: .5em 0 } ul { padding-left: 1.2em } .formula { font-size: 1.15em }
.quiet { color: #5d6d7e; font-size: .9em }
.scroll { overflow: auto; max-width: 100%; max-height: 75vh; margin: .6em 0; border: 1px solid #d5dbe1;
  width: fit-content }
table { border-collapse: collapse; font-size: .86em; font-variant-numeric: tabular-nums; white-space: nowrap;
  overflow-wrap: normal }
th, td { padding: .3em .8em; text-align: left; border-bottom: 1px solid #e8ecef } td.n, th.n { text-align: right }
td.long { white-space: normal; overflow-wrap: anywhere; min-width: min(16em, 45vw); max-width: 40em }
th { position: sticky; top: 0; background: #f2f5f7; font-weight: 600 }
tr.on td { background: #fdf0d5 } tr.gone td { color: #7f8c8d }
.figures { display: flex; flex-wrap: wrap; gap: 8px 24px; align-items: flex-start }
.figures svg { display: block; min-width: 0; width: 100%; height: auto; touch-action: manipulation;
  stroke-linejoin: round; stroke-linecap: butt } .figures svg.narrow { display: none }
@media (max-width: 620px) { .figures svg.narrow { display: block } .figures svg.wide { display: none } }
.run circle { fill: transparent; cursor: pointer } .run.on circle { stroke: #c0392b; stroke-width: 1.6 }
.runs:focus { outline: none } .runs:focus-visible .run.on circle { stroke-width: 2.6 }
#tip { position: fixed; z-index: 9; display: none; pointer-events: none; max-width: min(300px, 90vw); padding: 6px 10px;
  background: #1d2733; color: #fff; font-size: 13px; line-height: 1.4; border-radius: 4px }
#tip b, #tip span { display: block }
button { font: inherit; padding: .35em .9em; cursor: pointer }
"""

# A run is hit by the nearest mark of the figure, not by the topmost: in a crowd the marks cover each other.
SCRIPT = """
(function () {
  'use strict';
  var tip = document.getElementById('tip'), near = 22;
  function marked(run) { return document.querySelectorAll('[data-run="' + run + '"]'); }
  function hide() {
    tip.style.display = 'none';
    document.querySelectorAll('.on').forEach(function (one) { one.classList.remove('on'); });
  }
  function show(mark) {
    hide();
    var run = mark.dataset.run, row = document.querySelector('tr[data-run="' + run + '"]');
    marked(run).forEach(function (one) { one.classList.add('on'); });
    tip.textContent = '';
    row.querySelectorAll('td[data-tip]').forEach(function (cell) {
      if (!cell.textContent) return;
      var label = cell.dataset.tip, line = document.createElement(label ? 'span' : 'b');
      line.textContent = label ? label + ': ' + cell.textContent : cell.textContent;
      tip.appendChild(line);
    });
    tip.style.display = 'block';
    var box = mark.getBoundingClientRect(), width = document.documentElement.clientWidth;
    var left = Math.max(4, Math.min(box.right + 8, width - tip.offsetWidth - 4));
    var top = box.top - tip.offsetHeight - 8;
    tip.style.left = left + 'px';
    tip.style.top = (top < 4 ? box.bottom + 8 : top) + 'px';
  }
  function nearest(figure, event) {
    var best = null, least = near;
    figure.querySelectorAll('.run').forEach(function (mark) {
      var box = mark.getBoundingClientRect();
      var far = Math.hypot((box.left + box.right) / 2 - event.clientX, (box.top + box.bottom) / 2 - event.clientY);
      if (far < least) { least = far; best = mark; }
    });
    return best;
  }
  function point(event) {
    var mark = nearest(event.currentTarget, event);
    if (mark) show(mark); else hide();
  }
  document.querySelectorAll('.figures svg').forEach(function (figure) {
    figure.addEventListener('mousemove', point);
    figure.addEventListener('mouseover', point);
    figure.addEventListener('click', point);
    figure.addEventListener('mouseleave', hide);
  });
  document.addEventListener('click', function (event) { if (!event.target.closest('.figures svg')) hide(); });
  document.querySelectorAll('.runs').forEach(function (group) {
    var marks = Array.from(group.querySelectorAll('.run')), at = 0;
    group.addEventListener('focus', function () {
      if (marks.length && group.matches(':focus-visible')) show(marks[at]);
    });
    group.addEventListener('blur', hide);
    group.addEventListener('keydown', function (event) {
      var step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === 'Escape') hide();
      if (!step || !marks.length) return;
      event.preventDefault();
      at = (at + step + marks.length) % marks.length;
      show(marks[at]);
    });
  });
  document.getElementById('download').addEventListener('click', function () {
    var link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([document.getElementById('numbers').textContent]));
    link.download = 'report.json';
    link.click();
  });
})();
"""


def text(words: Any) -> Html:
    """As it stands, whatever it holds."""
    return Html(html.escape(str(words).encode('utf-8', 'replace').decode()))  # half a surrogate pair is no letter


def paragraph(words: str, kind: str = '') -> Html:
    return Html(f'<p{_kind(kind)}>{text(words)}</p>\n')


def items(lines: Iterable[str]) -> Html:
    return Html('<ul>\n' + ''.join(f'<li>{text(line)}</li>\n' for line in lines) + '</ul>\n')


def section(title: str, *blocks: Html) -> Html:
    return Html(f'<section>\n<h2>{text(title)}</h2>\n{"".join(blocks)}</section>\n')


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, words: Sequence[str] = (), long: str = '',
    marks: Sequence[tuple[str, int | None]] | None = None, tips: Sequence[str] = (),
) -> Html:  # fmt: skip
    """A table in a box of its own that scrolls.

    Args:
      words: the headings of columns that hold words and stand left; all others are numbers.
      long: the heading of the column whose words may take several lines; where it says nothing it is left out.
      marks: per row its class and the run that it is of, or None for none.
      tips: the headings of columns that a run's tooltip shows; the first of them without its heading.
    """
    rows, at = list(rows), list(headings).index(long) if long else None
    if at is not None and not any(row[at] for row in rows):
        headings, rows = [*headings[:at], *headings[at + 1 :]], [[*row[:at], *row[at + 1 :]] for row in rows]
    kinds = ['long' if long and name == long else '' if name in words else 'n' for name in headings]
    head = ''.join(f'<th{_kind(kind)}>{text(name)}</th>' for kind, name in zip(kinds, headings, strict=True))
    shown = [f' data-tip="{text("" if name == tips[0] else name)}"' if name in tips else '' for name in headings]
    body = []
    for index, row in enumerate(rows):
        of_row, run = marks[index] if marks else ('', None)
        cells = ''.join(
            f'<td{_kind(kind)}{tip}>{text(cell)}</td>' for kind, tip, cell in zip(kinds, shown, row, strict=True)
        )
        of_run = '' if run is None else f' data-run="{run}"'
        body.append(f'<tr{_kind(of_row)}{of_run}>{cells}</tr>\n')
    return Html(
        f'<div class="scroll" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{"".join(body)}</tbody>\n'
        '</table></div>\n'
    )


def figures(drawn: Iterable[tuple[str, str]]) -> Html:
    """(class, svg) of each: 'wide' and 'narrow' ones show each on its own width of screen."""
    return Html(
        '<div class="figures">\n'
        + ''.join(svg.replace('<svg ', f'<svg class="{kind}" ', 1) + '\n' for kind, svg in drawn)
        + '</div>\n'
    )


def whole(title: str, blocks: Iterable[Html], numbers: Any) -> str:
    """The page. `numbers`, JSON-able, are in it, and its button hands them out as a file."""
    # In a script no text is escaped but by its own language: JSON may write any letter by its number.
    raw = json.dumps(numbers, allow_nan=False).replace('<', '\\u003c')
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{text(title)}</h1>\n'
        + ''.join(blocks)
        + '<section>\n<h2>Numbers</h2>\n<p><button id="download" type="button">Every number, as JSON</button></p>\n'
        f'</section>\n<div id="tip" role="status"></div>\n<script type="application/json" id="numbers">{raw}</script>\n'
        f'<script>{SCRIPT}</script>\n</body>\n</html>\n'
    )


def _kind(name: str) -> str:
    return f' class="{name}"' if name else ''
