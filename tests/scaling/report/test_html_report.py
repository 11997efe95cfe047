"""The HTML report: complete, self-contained, and safe against markup in records."""

import html.parser
import json
import re

import numpy as np
import pytest

from gpt_jax.cli import main as cli
from gpt_jax.core.errors import UserError
from gpt_jax.scaling import analysis, forecast_ledger, rows, runs
from gpt_jax.scaling.forecast import forecast_run
from gpt_jax.scaling.report import fit_figures, html_report
from gpt_jax.scaling.report.page import embed_figure
from tests.scaling import synthetic

EVIL = '<script>alert("x")</script>'
FAST = {'draws': 8, 'starts': 4}
VOID = {'meta', 'br'}


class Page(html.parser.HTMLParser):
    """A parsed page: tags with attributes, text outside scripts and styles, data by element."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text, self.data = [], [], '', {}
        self.feed(text)
        self.close()
        assert self.open == [], 'an element is not closed'

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        element = self.open[-1] if self.open else ''
        self.data.setdefault(element, []).append(data)
        if element not in ('script', 'style'):
            self.text += data

    def attributes(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def references(page):
    return page.attributes('href') + page.attributes('xlink:href')


def write_rows(path, rows):
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return str(path)


def make_sweep():
    """An isoFLOP sweep with a curve, a failed run, one whose loss is NaN, and an outlier."""
    runs = synthetic.isoflop(sizes=5, budgets=4)
    noise = np.exp(0.002 * np.random.default_rng(0).standard_normal(len(runs)))
    rows = synthetic.rows(runs)
    for k, (row, factor) in enumerate(zip(rows, noise, strict=True)):
        row |= {'loss': row['loss'] * float(factor), 'name': f'{EVIL}{k} & "co"'}
        row |= {'status': 'done', 'seed': 0}
    rows[3]['curve'] = [
        [rows[3]['tokens'] / 2, rows[3]['loss'] * 1.1],
        [rows[3]['tokens'], rows[3]['loss']],
    ]
    rows[7] |= {'status': 'failed: <img src=x>', 'loss': None}
    rows[9]['loss'] = float('nan')
    rows[11]['loss'] *= 1.4
    return rows


@pytest.fixture(scope='module')
def report(tmp_path_factory):
    """The rows, the text of the page, the parsed page, and the lines for the terminal."""
    folder = tmp_path_factory.mktemp('report')
    rows, forecasts = make_sweep(), str(folder / 'forecasts.jsonl')
    clean = synthetic.grid(4, 4)
    for name, n, d in (
        ('made </td>', rows[0]['params'], rows[0]['tokens']),
        ('not made', 1e12, 1e13),
    ):
        forecast_ledger.append_forecast(
            forecasts, forecast_run(clean, n, d, law='chinchilla', draws=8, seed=0, name=name)
        )
    path = str(folder / 'report.html')
    lines = html_report.write_records_report(
        write_rows(folder / 'records.jsonl', rows), path, forecasts, at_flops=(1e23,), **FAST
    )
    text = (folder / 'report.html').read_text()
    return rows, text, Page(text), lines


def test_every_run_and_every_reason_is_shown(report):
    rows, _, page, lines = report
    for row in rows:
        assert row['name'] in page.text
    words = (
        "status is 'failed: <img src=x>'",
        'loss is nan',
        'outlier: the loss is +',
        '2 isoFLOP',
        'alpha',
        '95% interval',
        'SHA-256',
        '6 x N x D',
        'Noise between seeds',
        'Held out',
        '1e23',
    )
    for word in words:
        assert word in page.text, word
    assert '17 runs, 3 rows left out' in lines[0]
    assert lines[-1].startswith('report: ')
    marked_runs = {
        attributes['data-run']
        for tag, attributes in page.tags
        if tag == 'tr' and 'data-run' in attributes
    }
    assert marked_runs == {str(k) for k in range(17)}


def test_nothing_is_loaded(report):
    _, text, page, _ = report
    assert not {'link', 'img', 'iframe', 'object', 'embed', 'base'} & {tag for tag, _ in page.tags}
    assert page.attributes('src') == []
    assert all(value.startswith(('#', 'data:image/png;base64,')) for value in references(page))
    assert set(re.findall(r'url\((.)', text)) == {'#'}
    assert '@import' not in text
    for match in re.finditer(r'https?://', text):
        context = text[match.start() - 40 : match.end() + 40]
        assert re.search(r'xmlns(:\w+)?="$', text[: match.start()]), context


def test_markup_in_records_is_escaped(report):
    _, text, page, _ = report
    assert EVIL not in text
    assert [tag for tag, _ in page.tags].count('script') == 2
    numbers = json.loads(page.data['script'][0])
    assert numbers['result']['residuals']['name'][0].startswith(EVIL)
    assert numbers['forecasts']['scores'][0]['name'] == 'made </td>'


def test_ids_are_unique_and_references_resolve(report):
    _, text, page, _ = report
    ids = page.attributes('id')
    assert len(ids) > 100
    assert len(ids) == len(set(ids))
    targets = set(re.findall(r'url\(#([^)]+)\)', text))
    targets |= {value[1:] for value in references(page) if value.startswith('#')}
    assert targets
    assert targets <= set(ids)


def test_forecasts_are_scored(report):
    _, _, page, _ = report
    assert 'made </td>' in page.text
    assert 'no such run yet' in page.text
    assert '1 of 2 verified' in page.text


def test_marks_are_on_the_points():
    drawing = fit_figures.make_fit_figures(analysis.describe_runs(synthetic.isoflop()))[0]
    svg = embed_figure(drawing, 'wide')
    points = re.search(r'PathCollection_1">(.*?)</g>\s*</g>', svg, re.S)[0]
    uses = [
        (float(x), float(y)) for x, y in re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', points)
    ]
    marks = re.findall(r'data-run="(\d+)"><circle cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert len(marks) == len(uses) == len(drawing.points[0].runs)
    for run, x, y in marks:
        np.testing.assert_allclose((float(x), float(y)), uses[int(run)], atol=0.1)


def make_ladder(count=6):
    n = np.geomspace(1e6, 1e9, count)
    return [
        {
            'name': f'size {k}',
            'params': x,
            'tokens': 1e10,
            'loss': float(synthetic.loss(x, 1e10)),
            'status': 'done',
        }
        for k, x in enumerate(n)
    ]


def test_a_ladder_gets_the_power_law(tmp_path):
    lines = html_report.write_records_report(
        write_rows(tmp_path / 'ladder.jsonl', make_ladder()),
        str(tmp_path / 'page.html'),
        backtest=False,
        **FAST,
    )
    page = Page((tmp_path / 'page.html').read_text())
    for text in ('\n'.join(lines), page.text):
        assert '1 token counts cannot determine 5 constants' in text
        assert 'A power law over N instead.' in text
    assert 'The power law over N' in page.text
    assert 'Largest model, left out of the fit' in page.text
    assert 'The law\n' not in page.text
    assert any(name.startswith('narrow-scaling_curve-') for name in page.attributes('id'))
    assert {'0', '5'} <= set(page.attributes('data-run'))


def test_names_with_control_characters_and_math(tmp_path):
    rows = make_ladder(4)
    for row, name in zip(rows, ('\x01\x00', '$\\frac', '\ud800', ']]><svg onload=x>'), strict=True):
        row['name'] = name
    html_report.write_records_report(
        write_rows(tmp_path / 'odd.jsonl', rows), str(tmp_path / 'page.html'), **FAST
    )
    page = Page((tmp_path / 'page.html').read_text())
    assert page.text.count(']]><svg onload=x>') > 2
    assert '$\\frac' in page.text
    assert page.attributes('onload') == []


def test_the_scaled_variable_is_found():
    def fit(n, d):
        runs = synthetic.runs(n, d, synthetic.loss(n, d))
        return html_report.fit_for_report(runs, **FAST)

    n = np.geomspace(1e6, 1e8, 4)
    assert fit(n, np.full(4, 1e9) * (1 + 1e-4 * np.arange(4)))[0]['over'] == 'N'
    assert fit(np.full(4, 1e8), 20 * n)[0]['over'] == 'D'
    assert fit(n, 20 * n)[0]['over'] == 'C'
    result, why = fit(n, 1e17 / n)  # one isoFLOP curve: no single variable determines the loss
    assert 'law' not in result
    assert 'larger models do not always have more tokens' in why


def test_runs_without_any_law_still_give_a_page(tmp_path):
    rows = [row | {'tokens': 1e17 / row['params']} for row in make_ladder(4)]
    lines = html_report.write_records_report(
        write_rows(tmp_path / 'few.jsonl', rows),
        str(tmp_path / 'page.html'),
        loss_unit='bits_per_byte',
        **FAST,
    )
    page = Page((tmp_path / 'page.html').read_text())
    assert "column 'loss' is in bits per byte" in lines[2]
    assert "Loss: column 'loss' is in bits per byte" in page.text
    assert f'{rows[-1]["loss"]:.4f} bits/byte' in page.text
    assert 'nats' not in page.text
    assert 'No law over one variable either' in lines[1]
    assert lines[1] in page.text
    assert 'size 3' in page.text


def test_invalid_flags_are_rejected(tmp_path):
    path = write_rows(tmp_path / 'ladder.jsonl', make_ladder())
    with pytest.raises(UserError, match="such as 'flops>=1e21'"):
        html_report.write_records_report(
            path, str(tmp_path / 'page.html'), holdout='flops~3', **FAST
        )
    with pytest.raises(UserError, match='no such ledger'):
        html_report.write_records_report(
            path, str(tmp_path / 'page.html'), str(tmp_path / 'none.jsonl'), **FAST
        )
    assert not (tmp_path / 'page.html').exists()


def test_the_command_prints_the_path(tmp_path, capsys):
    path = synthetic.write_csv(
        tmp_path / 'runs.csv', synthetic.rows(synthetic.grid(4, 4, noise=0.002))
    )
    flags = ['--approach=3', '--draws=0', '--starts=4', '--no-backtest']
    cli.main(['report', path, f'--html={tmp_path / "a.html"}', *flags])
    assert f'report: {tmp_path / "a.html"}' in capsys.readouterr().out
    page = Page((tmp_path / 'a.html').read_text())
    assert 'No intervals: --draws=0' in page.text
    assert 'No ledger' in page.text
    assert 'row 16' in page.text


def test_equal_results_give_equal_pages(tmp_path):
    ladder = runs.read_runs(write_rows(tmp_path / 'ladder.jsonl', make_ladder()))
    result, why = html_report.fit_for_report(ladder, **FAST)
    records = rows.read_rows(ladder.provenance['file'])
    for name in ('a', 'b'):
        html_report.write_report(
            str(tmp_path / name), result, records=records, scores=None, why=why
        )
    assert (tmp_path / 'a').read_bytes() == (tmp_path / 'b').read_bytes()
