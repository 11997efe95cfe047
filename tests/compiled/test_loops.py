"""Do loops run as often as they really do?"""

import re

import jax
import jax.numpy as jnp

from gpt_jax.compiled.loops import times
from gpt_jax.compiled.text import parse
from gpt_jax.compiled.work import flops

SIZE = 64
EACH = 2 * SIZE**3


def counted(text):
    """FLOPs over all runs, and the loops whose length is unknown."""
    program = parse(text)
    runs = times(program)
    return sum(
        count * flops(program.computations[name], one)
        for name, count in runs.times.items()
        for one in program.computations[name].instructions
    ), runs.unknown


def text_of(function, *given):
    return jax.jit(function).lower(*given).compile().as_text()


def square():
    return jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32)


def nested(x):
    def inner(x, _):
        return jnp.tanh(x @ x), None

    def outer(x, _):
        x, _ = jax.lax.scan(inner, x, None, length=5)
        return jnp.sin(x @ x), None

    return jax.lax.scan(outer, x, None, length=3)[0]


def test_loops_within_loops_multiply():
    assert counted(text_of(nested, square())) == ((3 * 5 + 3) * EACH, [])


def test_without_the_compilers_note_the_condition_tells():
    text = re.sub(r'"known_trip_count":\{"n":"\d+"\},?', '', text_of(nested, square()))
    assert 'known_trip_count' not in text
    assert counted(text) == ((3 * 5 + 3) * EACH, [])


def test_a_loop_may_begin_anywhere_and_count_down():
    def function(x):
        up = jax.lax.fori_loop(3, 10, lambda _, x: jnp.tanh(x @ x), x)
        count_down = lambda carry: (carry[0] - 2, jnp.sin(carry[1] @ carry[1]))  # noqa: E731
        return jax.lax.while_loop(lambda carry: carry[0] > 1, count_down, (jnp.int32(8), up))[1]

    text = text_of(function, square())
    assert counted(text)[0] == (7 + 4) * EACH
    assert counted(re.sub(r'"known_trip_count":\{"n":"\d+"\},?', '', text))[0] == (7 + 4) * EACH


def test_a_loop_of_unknown_length_is_named_and_counted_once():
    def function(x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 1, lambda x: jnp.tanh(x @ x), x)

    flops_counted, unknown = counted(text_of(function, square()))
    assert flops_counted == EACH
    assert len(unknown) == 1


def test_of_branches_one_runs():
    def function(x, which):
        return jax.lax.cond(which, lambda x: x @ x, lambda x: jnp.sin(x + 1) @ jnp.cos(x) - x, x)

    assert counted(text_of(function, square(), jax.ShapeDtypeStruct((), bool)))[0] == EACH
