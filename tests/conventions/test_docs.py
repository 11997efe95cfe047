"""The documentation: generated pages are current, commands parse, links and pages build."""

import importlib.util
import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gpt_jax.core import jax_setup

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / 'README.md', *(ROOT / 'docs').glob('**/*.md')])
CONFIGS = sorted((ROOT / 'configs').glob('**/*.py'))
EXPERIMENT_SCRIPTS = sorted(
    {
        script
        for page in (ROOT / 'experiments').glob('*/README.md')
        for script in re.findall(r'python (experiments/[\w/]+\.py)', page.read_text())
    }
)


def find_commands(text: str, *, inline: bool = False) -> list[list[str]]:
    """The lines of code blocks (and inline code) that run run.py or gpt-jax, split into words."""
    blocks = re.findall(r'```(?:text)?\n(.*?)```', text, re.DOTALL)
    blocks += re.findall(r'\n((?:    .*\n|\n)+)', text)
    if inline:
        blocks += re.findall(r'`((?:python run\.py|gpt-jax) [^`\n]+)`', text)
    # A continued line; in a docstring of a config its backslash is escaped.
    lines = re.sub(r'\\{1,2}\n', ' ', '\n'.join(blocks)).splitlines()
    found = []
    for line in lines:
        for part in line.split(' && '):
            match = re.match(r'\s*(?:python run\.py|(gpt-jax)) (\S.*)', part)
            is_usage = match and re.search(r'COMMAND|\.\.\.|NAME|OUT\b|RUN\b|=LAUNCHER', match[2])
            if match and not is_usage:
                words = shlex.split(match[2], comments=True)
                found.append(['gpt-jax' if match[1] else 'run.py', *words])
    return found


def test_every_command_parses():
    commands: list[list[str]] = []
    for path in PAGES:
        if path.name != 'cli.md':  # generated from the parsers
            commands += find_commands(path.read_text(), inline=path.name == 'README.md')
    for path in CONFIGS:
        commands += find_commands(path.read_text().replace('\npython', '\n    python'))
    # Files that an earlier command writes are not there.
    missing = ('configs/planned.py', 'configs/sweep.py', 'configs/trunk.py', 'runs/gpt2/config.py')
    unique = {json.dumps(words): words for words in commands}.values()
    checked = [
        words
        for words in unique
        if not any(word == f'--config={path}' for word in words[1:] for path in missing)
        or words[0] == 'gpt-jax'
    ]
    assert len(checked) > 60
    result = subprocess.run(
        [sys.executable, '-m', 'tests.conventions.parse_commands'],
        cwd=ROOT,
        input=json.dumps(checked),
        capture_output=True,
        text=True,
        check=True,
    )
    outcomes = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(outcomes) == len(checked)
    assert not [(shlex.join(words), error) for words, error in outcomes if error]


@pytest.mark.parametrize('script', EXPERIMENT_SCRIPTS)
def test_experiment_scripts_have_help(script, monkeypatch, capsys):
    """Each script imports what it needs with the path of a script, and starts no work."""
    path = ROOT / script
    monkeypatch.setattr(sys, 'argv', [script, '--help'])
    others = [folder for folder in sys.path if Path(folder).resolve() != ROOT]
    monkeypatch.setattr(sys, 'path', [str(path.parent), *others])
    for name in list(sys.modules):
        if name.partition('.')[0] in ('configs', 'experiments'):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(jax_setup, 'start_jax', lambda *_, **__: None)  # the tests have started it
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(path), run_name='__main__')
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith('usage:')


def test_reference_pages_are_current():
    spec = importlib.util.spec_from_file_location('generate_docs', ROOT / 'docs' / 'generate.py')
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for name, render in generate.PAGES.items():
        page = ROOT / 'docs' / 'reference' / name
        assert page.read_text() == render(), f'run python docs/generate.py to update {page.name}'


def test_links_lead_to_files():
    for path in PAGES:
        for target in re.findall(r'\]\(([^)#:]+)(?:#[^)]*)?\)', path.read_text()):
            assert (path.parent / target).exists(), f'{path}: {target}'


def test_named_files_exist():
    """Paths of the library and its tests that the pages name."""
    for path in PAGES:
        for name in re.findall(
            r'\b((?:gpt_jax|tests|configs|experiments)/[\w/]+\.py)', path.read_text()
        ):
            known = ('configs/planned.py', 'configs/sweep.py', 'configs/trunk.py')
            assert (ROOT / name).exists() or name in known, f'{path}: {name}'


def test_readme_is_short():
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 150


def test_site_builds(tmp_path):
    pytest.importorskip('mkdocs', reason="the site is built with pip install -e '.[docs]'")
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'reference' / 'config' / 'index.html').exists()
