"""Quoting: arguments pass unchanged through shells, sbatch lines, Kubernetes and YAML."""

import json
import subprocess
import sys

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gpt_jax.core.errors import UserError
from gpt_jax.launch import quoting

# What a command line can carry: any text without NUL and without lone surrogates.
WORD = st.text(st.characters(exclude_characters='\0', exclude_categories=('Cs',)), max_size=30)
NASTY = [
    '',
    ' ',
    "it's",
    '"',
    '$HOME',
    '$(id)',
    '`id`',
    ';',
    '&& id',
    'a\nb',
    '\\',
    '\t',
    '*',
    '~',
    '#',
    '!',
    "'\"'\"'",
    '-n',
    '--',
    '\r\n',
    'é ü 漢',
    '\x1b[0m',
    '%j',
    '${x}',
    '\x85',
    '\u2028',
]
ECHO = 'import json, sys; print(json.dumps(sys.argv[1:]))'


def run_echo(shell, text):
    result = subprocess.run([shell, '-c', text], capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


@pytest.mark.parametrize('shell', ['bash', 'sh'])
def test_special_characters_pass_a_real_shell(shell):
    assert run_echo(shell, quoting.join_words([sys.executable, '-c', ECHO, *NASTY])) == NASTY


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(WORD, min_size=20, max_size=40))
@example(NASTY)
def test_any_words_pass_a_real_shell(words):
    assert run_echo('bash', quoting.join_words([sys.executable, '-c', ECHO, *words])) == words


@settings(deadline=None, max_examples=20)
@given(st.lists(WORD, min_size=5, max_size=10))
def test_any_words_pass_two_shells(words):
    """As with ssh: a shell reads one word, which is a command that another shell reads."""
    inner = quoting.join_words([sys.executable, '-c', ECHO, *words])
    assert run_echo('bash', quoting.join_words(['sh', '-c', inner])) == words


@settings(deadline=None, max_examples=20)
@given(
    st.dictionaries(
        st.from_regex('[A-Za-z_][A-Za-z0-9_]{0,8}', fullmatch=True).map('T_{}'.format),
        WORD,
        max_size=5,
    )
)
def test_any_values_are_exported(env):
    dump = f'import json, os; print(json.dumps({{key: os.environ[key] for key in {list(env)!r}}}))'
    text = '\n'.join([*quoting.export_lines(env), quoting.join_words([sys.executable, '-c', dump])])
    assert run_echo('bash', text) == env


@pytest.mark.parametrize('word', ['a\0b', '\ud800'])
def test_words_that_no_command_line_can_carry_are_rejected(word):
    with pytest.raises(UserError):
        quoting.join_words(['echo', word])


@pytest.mark.parametrize('name', ['', 'A-B', '1A', 'A B', 'A=B', 'A;id', 'A\nB'])
def test_invalid_variable_names_are_rejected(name):
    with pytest.raises(UserError, match='not a valid name'):
        quoting.export_lines({name: 'x'})


@pytest.mark.parametrize('value', ['a b', 'a"b', '$x', 'a;b', 'a\nb', '`a`', "'a'", '#a', ''])
def test_values_that_sbatch_lines_cannot_hold_are_rejected(value):
    with pytest.raises(UserError, match='--launch_option=partition: must contain only'):
        quoting.check_plain(value, 'partition')


def expand_as_kubernetes(text, variables):
    """Expands $(NAME) and $$ in a container's argument, as the documentation of Kubernetes says."""
    result, at = '', 0
    while at < len(text):
        if text.startswith('$$', at):
            result, at = result + '$', at + 2
        elif text.startswith('$(', at) and ')' in text[at:]:
            end = text.index(')', at)
            value = variables.get(text[at + 2 : end], text[at : end + 1])
            result, at = result + value, end + 1
        else:
            result, at = result + text[at], at + 1
    return result


@settings(deadline=None)
@given(WORD)
@example('$(A)')
@example('$$(A)')
@example('$')
def test_any_word_passes_kubernetes(word):
    escaped = quoting.escape_kubernetes(word)
    assert expand_as_kubernetes(escaped, {'A': 'replaced'}) == word


TREE = st.recursive(
    st.one_of(WORD, st.integers(-1000, 1000), st.booleans()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(WORD, inner, max_size=4)),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.dictionaries(WORD, TREE, min_size=1, max_size=4))
@example({'a': [], 'b': {}, 'c': [[1], [[2]], {'d': ['x']}], 'yes': 'no', 'n': '1'})
def test_yaml_round_trips(tree):
    assert yaml.safe_load(quoting.to_yaml(tree)) == tree
