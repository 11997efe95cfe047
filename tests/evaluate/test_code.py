"""Does a program pass only by doing what was asked, and can none of these harm what is around it?"""

import itertools
import os
import subprocess
import sys
import textwrap
import time

import pytest

from configs.finetune import code as made_code
from configs.finetune import code_files
from gpt_jax import overrides, schema
from gpt_jax.data import examples
from gpt_jax.data.made.exercises import exercises
from gpt_jax.data.rows import Row
from gpt_jax.data.task import TaskConfig
from gpt_jax.errors import UserError
from gpt_jax.evaluate import code

HUMAN_EVAL = {
    'task_id': 'HumanEval/x',
    'prompt': 'def double(n):\n    """Twice."""\n',
    'entry_point': 'double',
    'canonical_solution': '    return 2 * n\n',
    'test': 'def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n',
}


def run(program, **options):
    (outcome,) = code.run([textwrap.dedent(program)], allowed=True, **options)
    return outcome


def why(program, **options):
    outcome = run(program, **options)
    assert not outcome.passed
    return outcome.why


def test_only_where_it_is_asked_for():
    with pytest.raises(UserError, match=r'only run with --run_code: it runs with your rights.*no jail'):
        code.run(['x = 1'], allowed=False)


def program_of(config, row, written):
    """As the config of a task puts it around what was written."""
    task = schema.from_dict(TaskConfig, config['task'], 'task')
    one = examples.make(Row('train[0]', row), task, {}, None)
    return code.body(written).join(one.program)


def test_programs_of_configs():
    (_, made), *_ = exercises()
    made_config, files_config = (overrides.plain(one.get_config()) for one in (made_code, code_files))
    answers = [
        (files_config, HUMAN_EVAL, '    return n + n\n'),
        (files_config, HUMAN_EVAL, '    return n * n\n'),
        (made_config, made, made['body']),
        (made_config, made, '    return 12345\n'),
    ]
    programs = [program_of(*one) for one in answers]
    assert [outcome.passed for outcome in code.run(programs, allowed=True)] == [True, False] * 2
    assert programs[0].endswith('\ncheck(double)\n')


def test_what_is_written_after_the_function_is_left_out():
    written = '    return (\n        2 * n\n)\n\nprint(nonsense)\ndef double(n):\n    return 0\n'
    program = program_of(overrides.plain(code_files.get_config()), HUMAN_EVAL, written)
    assert code.run([program], allowed=True)[0].passed


@pytest.mark.parametrize(
    ('program', 'expected'),
    [
        ('assert 1 == 2', 'AssertionError'),
        ('def f(:\n    pass', 'SyntaxError'),
        ('x = input()', 'EOFError'),
        ('import sys\nassert sys.stdin.read() == "secret"', 'AssertionError'),
        ('exit(0)\nassert False', 'SystemExit'),
        ('import sys\nsys.exit(0)', 'SystemExit'),
        ('import os\nos._exit(0)\nassert False', 'left early'),
        ('import os\nos._exit(1)', 'left early'),
        ('import os\nprint("passed", flush=True)\nfor n in range(3, 32):\n'
         '    try: os.write(n, b"passed")\n    except OSError: pass\nos._exit(0)', 'left early'),
        ('import ctypes\nctypes.string_at(0)', 'PermissionError'),
        ('x = [bytearray(1 << 24) for _ in range(200)]', 'MemoryError'),
        ('def f(): return f()\nf()', 'RecursionError'),
        ('raise KeyboardInterrupt', 'KeyboardInterrupt'),
        ('import os\nassert set(os.environ) - {"LC_CTYPE"}', 'AssertionError'),
        ('import os\nassert os.listdir()', 'AssertionError'),
        ('open("big", "wb").write(bytes(2 << 20))', 'OSError'),
        ('open("../escaped", "w")', 'PermissionError'),
        ('import os\nos.remove("/no/such/file")', 'PermissionError'),
        ('import os\nos.symlink("/", "root")', 'PermissionError'),
        ('import socket\nsocket.socket()', 'PermissionError'),
        ('import socket\nsocket.create_connection(("127.0.0.1", 9))', 'PermissionError'),
        ('import urllib.request\nurllib.request.urlopen("http://localhost:9")', 'PermissionError'),
        ('import subprocess\nsubprocess.run(["true"])', 'PermissionError'),
        ('import os\nos.system("true")', 'PermissionError'),
        ('import os\nos.kill(os.getppid(), 9)', 'PermissionError'),
        ('import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))', 'PermissionError'),
        ('class E(Exception): pass\nE.__name__ = "passed now"\nraise E', 'left early'),
    ],
)  # fmt: skip
def test_programs_that_fail(program, expected):
    assert why(program) == expected


def test_a_program_may_print_write_and_read_a_file_of_its_own():
    assert run("""
        print('x' * 1_000_000)
        with open('own', 'w') as file:
            file.write('text')
        with open('own') as file:
            assert file.read() == 'text'
        import os
        os.remove('own')
        import collections, dataclasses, heapq, math, random, re, statistics, typing
    """) == (True, 'passed')  # fmt: skip


@pytest.mark.parametrize('loop', ['while True: pass', 'import time\ntime.sleep(60)',
                                  'while True:\n  try: raise ValueError\n  except BaseException: pass'])  # fmt: skip
def test_endless(loop):
    began = time.monotonic()
    assert why(loop, seconds=0.7) == 'timed out'
    assert time.monotonic() - began < 10


def test_processor_time_is_bounded_where_the_clock_is_not():
    """What escapes the clock, as a process that left its group would, still ends."""
    asked = '{"program": "while True: pass", "nonce": "x", "memory": 1000000000, "seconds": 1}'
    child = subprocess.run(
        [sys.executable, '-I', str(code.CHILD)], input=asked, capture_output=True, text=True, timeout=60
    )
    assert child.returncode < 0
    assert child.stdout == ''


def test_forks_are_refused():
    """A bomb that ends of itself after a few, should it go off."""
    program = """
        import os
        went = 0
        for _ in range(3):
            try:
                os.fork()
                went = 1
            except OSError:
                pass
        assert not went
    """
    assert run(program).passed
    assert why('import multiprocessing\nmultiprocessing.Process(target=print).start()') == 'PermissionError'


@pytest.mark.skipif(os.geteuid() == 0, reason='the system bounds the processes of all but root')
def test_forks_past_the_hook_are_refused_by_the_system():
    assert why("""
        import _posixsubprocess, os
        one, other = os.pipe()
        _posixsubprocess.fork_exec([b'/bin/true'], [b'/bin/true'], True, (), None, None, -1, -1, -1, -1, -1, -1, one,
                                   other, False, False, 0, None, None, None, -1, None, False)
    """) == 'BlockingIOError'  # fmt: skip


def test_outcomes_are_in_order():
    programs = ['import time\ntime.sleep(0.3)', 'assert False', 'x = 1']
    assert [outcome.passed for outcome in code.run(programs, allowed=True, workers=3)] == [True, False, True]


def test_pass_at_k_is_the_share_of_all_draws():
    passed = [[True, False, False, True, False], [False] * 5, [True] * 4 + [False], [True] * 5]
    for k in (1, 2, 3, 5):
        shares = [[any(draw) for draw in itertools.combinations(some, k)] for some in passed]
        expected = sum(sum(some) / len(some) for some in shares) / len(passed)
        assert code.pass_at(k, passed) == pytest.approx(expected)
    with pytest.raises(UserError, match=r'pass@6 wants 6 programs or more for each problem, not 5'):
        code.pass_at(6, passed)
