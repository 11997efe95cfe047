"""Do arguments arrive as they were, through every reader that stands between?"""

import json
import subprocess
import sys

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gpt_jax.errors import UserError
from gpt_jax.launch import quoting

# What a command line can carry: any text without NUL and without halves of surrogate pairs.
WORD = st.text(st.characters(exclude_characters='\0', exclude_categories=('Cs',)), max_size=30)
NASTY = ['', ' ', "it's", '"', '$HOME', '$(id)', '`id`', ';', '&& id', 'a\nb', '\\', '\t', '*', '~', '#', '!',
         "'\"'\"'", '-n', '--', '\r\n', 'é ü 漢', '\x1b[0m', '%j', '${x}', '\x85', '\u2028']  # fmt: skip
ECHO = 'import json, sys; print(json.dumps(sys.argv[1:]))'


def through(shell, text):
    done = subprocess.run([shell, '-c', text], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize('shell', ['bash', 'sh'])
def test_every_nasty_word_passes_a_real_shell(shell):
    assert through(shell, quoting.words([sys.executable, '-c', ECHO, *NASTY])) == NASTY


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(WORD, min_size=20, max_size=40))
@example(NASTY)
def test_any_words_pass_a_real_shell(words):
    assert through('bash', quoting.words([sys.executable, '-c', ECHO, *words])) == words


@settings(deadline=None, max_examples=20)
@given(st.lists(WORD, min_size=5, max_size=10))
def test_any_words_pass_two_shells(words):
    """As ssh does it: one word that a shell reads, in which is a command that a shell reads."""
    inner = quoting.words([sys.executable, '-c', ECHO, *words])
    assert through('bash', quoting.words(['sh', '-c', inner])) == words


@settings(deadline=None, max_examples=20)
@given(
    st.dictionaries(st.from_regex('[A-Za-z_][A-Za-z0-9_]{0,8}', fullmatch=True).map('T_{}'.format), WORD, max_size=5)
)
def test_any_values_are_exported(env):
    dump = f'import json, os; print(json.dumps({{key: os.environ[key] for key in {list(env)!r}}}))'
    text = '\n'.join([*quoting.exports(env), quoting.words([sys.executable, '-c', dump])])
    done = subprocess.run(['bash', '-c', text], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == env


@pytest.mark.parametrize('word', ['a\0b', '\ud800'])
def test_what_no_command_line_can_carry_is_refused(word):
    with pytest.raises(UserError):
        quoting.words(['echo', word])


@pytest.mark.parametrize('name', ['', 'A-B', '1A', 'A B', 'A=B', 'A;id', 'A\nB'])
def test_no_name_of_a_variable(name):
    with pytest.raises(UserError, match='no name'):
        quoting.exports({name: 'x'})


@pytest.mark.parametrize('value', ['a b', 'a"b', '$x', 'a;b', 'a\nb', '`a`', "'a'", '#a', ''])
def test_what_sbatch_lines_cannot_hold_is_refused(value):
    with pytest.raises(UserError, match='--launch_option=partition='):
        quoting.plain(value, 'partition')


def expanded(text, variables):
    """What Kubernetes makes of a container's argument, after its documentation: $(NAME), and $$ for $."""
    made, at = '', 0
    while at < len(text):
        if text.startswith('$$', at):
            made, at = made + '$', at + 2
        elif text.startswith('$(', at) and ')' in text[at:]:
            end = text.index(')', at)
            made, at = made + variables.get(text[at + 2 : end], text[at : end + 1]), end + 1
        else:
            made, at = made + text[at], at + 1
    return made


@settings(deadline=None)
@given(WORD)
@example('$(A)')
@example('$$(A)')
@example('$')
def test_any_word_passes_kubernetes(word):
    assert expanded(quoting.kubernetes(word), {'A': 'replaced'}) == word


TREE = st.recursive(
    st.one_of(WORD, st.integers(-1000, 1000), st.booleans()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(WORD, inner, max_size=4)),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.dictionaries(WORD, TREE, min_size=1, max_size=4))
@example({'a': [], 'b': {}, 'c': [[1], [[2]], {'d': ['x']}], 'yes': 'no', 'n': '1'})
def test_yaml_reads_back_as_it_was(tree):
    assert yaml.safe_load(quoting.yaml(tree)) == tree
