"""Does the report hold everything, load nothing, and run nothing that a record says?"""

import html.parser
import json
import re

import numpy as np
import pytest

from gpt_jax.errors import UserError
from gpt_jax.scaling import analysis, cli, ledger, rows, runs
from gpt_jax.scaling.view import figures, inline, report
from tests.scaling import synthetic

EVIL = '<script>alert("x")</script>'
FAST = {'draws': 8, 'starts': 4}
VOID = {'meta', 'br'}


class Page(html.parser.HTMLParser):
    """Every tag with its attributes and parents, and all text outside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text, self.inside = [], [], '', {}
        self.feed(text)
        self.close()
        assert self.open == [], 'a tag is not closed'

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        where = self.open[-1] if self.open else ''
        self.inside.setdefault(where, []).append(data)
        if where not in ('script', 'style'):
            self.text += data

    def attributes(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def references(page):
    return page.attributes('href') + page.attributes('xlink:href')


def write(path, rows):
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return str(path)


def sweep():
    """An isoFLOP sweep with curves, one run that failed, one that is no number, and one off the law of the others."""
    given = synthetic.isoflop(sizes=5, budgets=4)
    noise = np.exp(0.002 * np.random.default_rng(0).standard_normal(len(given)))
    rows = [
        row | {'loss': row['loss'] * float(each), 'name': f'{EVIL}{k} & "co"', 'status': 'done', 'seed': 0}
        for k, (row, each) in enumerate(zip(synthetic.rows(given), noise, strict=True))
    ]
    rows[3]['curve'] = [[rows[3]['tokens'] / 2, rows[3]['loss'] * 1.1], [rows[3]['tokens'], rows[3]['loss']]]
    rows[7] |= {'status': 'failed: <img src=x>', 'loss': None}
    rows[9]['loss'] = float('nan')
    rows[11]['loss'] *= 1.4
    return rows


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """(the rows, the text of the page, the page read, the lines)."""
    folder = tmp_path_factory.mktemp('report')
    rows, forecasts = sweep(), str(folder / 'forecasts.jsonl')
    clean = synthetic.grid(4, 4)
    for name, n, d in (('made </td>', rows[0]['params'], rows[0]['tokens']), ('not made', 1e12, 1e13)):
        ledger.add(forecasts, ledger.forecast(clean, n, d, law='chinchilla', draws=8, seed=0, name=name))
    path = str(folder / 'report.html')
    lines = report.from_records(write(folder / 'records.jsonl', rows), path, forecasts, at_flops=(1e23,), **FAST)
    text = (folder / 'report.html').read_text()
    return rows, text, Page(text), lines


def test_every_run_and_every_reason_is_there(made):
    rows, _, page, lines = made
    for row in rows:
        assert row['name'] in page.text
    words = (
        "status is 'failed: <img src=x>'", 'loss is nan', 'outlier: the loss is +', '2 isoFLOP', 'alpha',
        '95% interval', 'SHA-256', '6 x N x D', 'Noise between seeds', 'Held out', '1e23',
    )  # fmt: skip
    for word in words:
        assert word in page.text, word
    assert '17 runs, 3 rows left out' in lines[0]
    assert lines[-1].startswith('report: ')
    marked = {attributes['data-run'] for tag, attributes in page.tags if tag == 'tr' and 'data-run' in attributes}
    assert marked == {str(k) for k in range(17)}


def test_nothing_is_loaded(made):
    _, text, page, _ = made
    assert not {'link', 'img', 'iframe', 'object', 'embed', 'base'} & {tag for tag, _ in page.tags}
    assert page.attributes('src') == []
    assert all(value.startswith(('#', 'data:image/png;base64,')) for value in references(page))
    assert set(re.findall(r'url\((.)', text)) == {'#'}
    assert '@import' not in text
    for found in re.finditer(r'https?://', text):
        assert re.search(r'xmlns(:\w+)?="$', text[: found.start()]), text[found.start() - 40 : found.end() + 40]


def test_what_a_record_says_stays_text(made):
    _, text, page, _ = made
    assert EVIL not in text
    assert [tag for tag, _ in page.tags].count('script') == 2
    numbers = json.loads(page.inside['script'][0])
    assert numbers['result']['residuals']['name'][0].startswith(EVIL)
    assert numbers['forecasts']['scores'][0]['name'] == 'made </td>'


def test_ids_are_unique_and_references_meet_them(made):
    _, text, page, _ = made
    ids = page.attributes('id')
    assert len(ids) > 100
    assert len(ids) == len(set(ids))
    wanted = set(re.findall(r'url\(#([^)]+)\)', text))
    wanted |= {value[1:] for value in references(page) if value.startswith('#')}
    assert wanted
    assert wanted <= set(ids)


def test_the_forecasts_are_scored(made):
    _, _, page, _ = made
    assert 'made </td>' in page.text
    assert 'no such run yet' in page.text
    assert '1 of 2 verified' in page.text


def test_marks_lie_on_the_points():
    drawn = figures.drawn(analysis.measured(synthetic.isoflop()))[0]
    svg = inline.svg(drawn, 'p-', 'words')
    points = re.search(r'PathCollection_1">(.*?)</g>\s*</g>', svg, re.S)[0]
    uses = [(float(x), float(y)) for x, y in re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', points)]
    marks = re.findall(r'data-run="(\d+)"><circle cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert len(marks) == len(uses) == len(drawn.points[0].runs)
    for run, x, y in marks:
        np.testing.assert_allclose((float(x), float(y)), uses[int(run)], atol=0.1)


def ladder(count=6):
    n = np.geomspace(1e6, 1e9, count)
    return [
        {'name': f'size {k}', 'params': x, 'tokens': 1e10, 'loss': float(synthetic.loss(x, 1e10)), 'status': 'done'}
        for k, x in enumerate(n)
    ]


def test_a_ladder_gets_the_power_law(tmp_path):
    lines = report.from_records(write(tmp_path / 'ladder.jsonl', ladder()), str(tmp_path / 'page.html'), **FAST)
    page = Page((tmp_path / 'page.html').read_text())
    for text in ('\n'.join(lines), page.text):
        assert '1 token counts cannot carry 5 constants' in text
        assert 'A power law over N instead.' in text
    assert 'The power law over N' in page.text
    assert 'Largest model, left out of the fit' in page.text
    assert 'The law\n' not in page.text
    assert any(name.startswith('narrow-scaling_curve-') for name in page.attributes('id'))
    assert {'0', '5'} <= set(page.attributes('data-run'))


def test_names_that_no_figure_could_carry(tmp_path):
    rows = ladder(4)
    for row, name in zip(rows, ('\x01\x00', '$\\frac', '\ud800', ']]><svg onload=x>'), strict=True):
        row['name'] = name
    report.from_records(write(tmp_path / 'odd.jsonl', rows), str(tmp_path / 'page.html'), **FAST)
    page = Page((tmp_path / 'page.html').read_text())
    assert page.text.count(']]><svg onload=x>') > 2
    assert '$\\frac' in page.text
    assert page.attributes('onload') == []


def test_which_variable_was_scaled():
    def told(n, d):
        given = synthetic.runs(n, d, synthetic.loss(n, d))
        return report.told(given, **FAST)

    n = np.geomspace(1e6, 1e8, 4)
    assert told(n, np.full(4, 1e9) * (1 + 1e-4 * np.arange(4)))[0]['over'] == 'N'
    assert told(np.full(4, 1e8), 20 * n)[0]['over'] == 'D'
    assert told(n, 20 * n)[0]['over'] == 'C'
    result, why = told(n, 1e17 / n)  # one isoFLOP curve: no single variable tells its loss
    assert 'law' not in result
    assert 'size and tokens change against each other' in why


def test_too_little_for_any_law_still_makes_a_page(tmp_path):
    rows = [row | {'tokens': 1e17 / row['params']} for row in ladder(4)]
    lines = report.from_records(write(tmp_path / 'few.jsonl', rows), str(tmp_path / 'page.html'), **FAST)
    page = Page((tmp_path / 'page.html').read_text())
    assert 'Nor one over a single variable' in lines[1]
    assert lines[1] in page.text
    assert 'size 3' in page.text


def test_a_slip_in_a_flag_is_refused(tmp_path):
    path = write(tmp_path / 'ladder.jsonl', ladder())
    with pytest.raises(UserError, match="'flops>=1e21' say"):
        report.from_records(path, str(tmp_path / 'page.html'), holdout='flops~3', **FAST)
    with pytest.raises(UserError, match='no such ledger'):
        report.from_records(path, str(tmp_path / 'page.html'), str(tmp_path / 'none.jsonl'), **FAST)
    assert not (tmp_path / 'page.html').exists()


def test_the_command_says_where_it_is(tmp_path, capsys):
    path = synthetic.write_csv(tmp_path / 'runs.csv', synthetic.rows(synthetic.grid(4, 4, noise=0.002)))
    cli.main(['report', path, f'--html={tmp_path / "a.html"}', '--approach=3', '--draws=0', '--starts=4'])
    assert f'report: {tmp_path / "a.html"}' in capsys.readouterr().out
    page = Page((tmp_path / 'a.html').read_text())
    assert 'No intervals' in page.text
    assert 'No ledger' in page.text
    assert 'row 16' in page.text


def test_equal_results_give_equal_pages(tmp_path):
    given = runs.read(write(tmp_path / 'ladder.jsonl', ladder()))
    result, why = report.told(given, **FAST)
    records = rows.read(given.about['file'])
    for name in ('a', 'b'):
        report.write(str(tmp_path / name), result, records=records, scores=None, why=why)
    assert (tmp_path / 'a').read_bytes() == (tmp_path / 'b').read_bytes()
