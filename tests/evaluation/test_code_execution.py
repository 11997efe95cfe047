"""Generated programs in child processes: verdicts, limits and refused operations."""

import itertools
import os
import subprocess
import sys
import textwrap
import time

import pytest

from gpt_jax.core import config_fields
from gpt_jax.core.config import TaskConfig
from gpt_jax.core.errors import UserError
from gpt_jax.evaluation import code_execution
from gpt_jax.evaluation.code_execution import run_programs
from gpt_jax.tasks import catalog, examples
from gpt_jax.tasks.row_sources import Row
from gpt_jax.tasks.synthetic.code import make_exercises

HUMAN_EVAL = {
    'task_id': 'HumanEval/x',
    'prompt': 'def double(n):\n    """Twice."""\n',
    'entry_point': 'double',
    'canonical_solution': '    return 2 * n\n',
    'test': 'def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n',
}


def run(program, **options):
    (outcome,) = run_programs([textwrap.dedent(program)], allowed=True, **options)
    return outcome


def find_reason(program, **options):
    outcome = run(program, **options)
    assert not outcome.passed
    return outcome.why


def test_programs_only_run_on_request():
    message = r'only runs with --run_code: it runs with your permissions.*is not sandboxed'
    with pytest.raises(UserError, match=message):
        run_programs(['x = 1'], allowed=False)


def make_program(task_name, row, completion):
    """The completion in the program of a task of the catalog."""
    task = config_fields.from_dict(TaskConfig, catalog.task_section(task_name), 'task')
    example = examples.make_example(Row('train[0]', row), task, {}, None)
    return code_execution.extract_function_body(completion).join(example.program)


def test_programs_of_the_catalog():
    (_, exercise), *_ = make_exercises()
    completions = [
        ('code_files', HUMAN_EVAL, '    return n + n\n'),
        ('code_files', HUMAN_EVAL, '    return n * n\n'),
        ('code', exercise, exercise['body']),
        ('code', exercise, '    return 12345\n'),
    ]
    programs = [make_program(*arguments) for arguments in completions]
    outcomes = run_programs(programs, allowed=True)
    assert [outcome.passed for outcome in outcomes] == [True, False] * 2
    assert programs[0].endswith('\ncheck(double)\n')


def test_text_after_the_function_is_dropped():
    completion = '    return (\n        2 * n\n)\n\nprint(nonsense)\ndef double(n):\n    return 0\n'
    program = make_program('code_files', HUMAN_EVAL, completion)
    assert run_programs([program], allowed=True)[0].passed


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
        (
            'import os\nprint("passed", flush=True)\nfor n in range(3, 32):\n'
            '    try: os.write(n, b"passed")\n    except OSError: pass\nos._exit(0)',
            'left early',
        ),
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
)
def test_programs_that_fail(program, expected):
    assert find_reason(program) == expected


def test_a_program_may_print_and_use_a_file_of_its_own():
    outcome = run("""
        print('x' * 1_000_000)
        with open('own', 'w') as file:
            file.write('text')
        with open('own') as file:
            assert file.read() == 'text'
        import os
        os.remove('own')
        import collections, dataclasses, heapq, math, random, re, statistics, typing
    """)
    assert outcome == (True, 'passed')


@pytest.mark.parametrize(
    'loop',
    [
        'while True: pass',
        'import time\ntime.sleep(60)',
        'while True:\n  try: raise ValueError\n  except BaseException: pass',
    ],
)
def test_endless_programs_time_out(loop):
    started = time.monotonic()
    assert find_reason(loop, seconds=0.7) == 'timed out'
    assert time.monotonic() - started < 10


def test_processor_time_is_limited_too():
    """A process that escapes the time limit, for example by leaving its group, still ends."""
    job = '{"program": "while True: pass", "nonce": "x", "memory": 1000000000, "seconds": 1}'
    child = subprocess.run(
        [sys.executable, '-I', str(code_execution.CHILD_SCRIPT)],
        input=job,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.returncode < 0
    assert child.stdout == ''


def test_forks_are_refused():
    """If the hook fails, the program ends after a few forks."""
    program = """
        import os
        forked = 0
        for _ in range(3):
            try:
                os.fork()
                forked = 1
            except OSError:
                pass
        assert not forked
    """
    assert run(program).passed
    start_process = 'import multiprocessing\nmultiprocessing.Process(target=print).start()'
    assert find_reason(start_process) == 'PermissionError'


@pytest.mark.skipif(os.geteuid() == 0, reason='the system does not limit the processes of root')
def test_the_system_refuses_forks_that_bypass_the_hook():
    program = """
        import _posixsubprocess, os
        read, write = os.pipe()
        _posixsubprocess.fork_exec([b'/bin/true'], [b'/bin/true'], True, (), None, None, -1, -1, -1,
                                   -1, -1, -1, read, write, False, False, 0, None, None, None, -1,
                                   None, False)
    """
    assert find_reason(program) == 'BlockingIOError'


def test_outcomes_are_in_order():
    programs = ['import time\ntime.sleep(0.3)', 'assert False', 'x = 1']
    outcomes = run_programs(programs, allowed=True, workers=3)
    assert [outcome.passed for outcome in outcomes] == [True, False, True]


def test_pass_at_k_is_the_mean_over_all_draws():
    passed = [[True, False, False, True, False], [False] * 5, [True] * 4 + [False], [True] * 5]
    for k in (1, 2, 3, 5):
        draws = [[any(draw) for draw in itertools.combinations(each, k)] for each in passed]
        expected = sum(sum(each) / len(each) for each in draws) / len(passed)
        assert code_execution.pass_at_k(k, passed) == pytest.approx(expected)
    with pytest.raises(UserError, match=r'pass@6 needs at least 6 programs per problem, got 5'):
        code_execution.pass_at_k(6, passed)
