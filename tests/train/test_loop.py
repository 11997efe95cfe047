"""The training loop calls its hooks in order, and reads metrics only after the next step began."""

import numpy as np

from gpt_jax.core.errors import Diverged, Preempted
from gpt_jax.train.loop import Hooks, Intervals, run_training_loop

NEVER = Intervals(log=0, evaluate=0, suite=0, save=0, save_steps=())


def run_loop(
    steps=6,
    start=0,
    every=NEVER,
    stop_at=None,
    stop_in=None,
    finish_at=None,
    skipped=0,
    is_evaluated=True,
):
    """Run the loop with a state that counts the steps; return it and the events in order."""
    events = []

    def step(state, batch):
        assert batch == state  # batch k is for update k + 1
        events.append(f'step {state + 1}')
        return state + 1, {'skipped_in_row': np.int32(skipped)}

    def evaluate(name, done, is_saved):
        events.append(f'{name} {done}{"" if is_saved else " unsaved"}')
        if name == stop_in:
            raise Preempted(f'in {name}')

    def save(done, state, is_complete, wait):
        assert state == done
        row = '' if is_complete else ' before its evaluation'
        events.append(f'save {done}{row}{" and wait" if wait else ""}')

    hooks = Hooks(
        log=lambda done, _: events.append(f'log {done}'),
        evaluate=lambda done, _, is_saved: evaluate('evaluate', done, is_saved),
        run_suite=lambda done, _, is_saved: evaluate('suite', done, is_saved),
        save=save,
        should_stop=lambda: stop_at is not None and f'step {stop_at}' in events,
        should_finish=lambda: any(event.startswith(f'evaluate {finish_at}') for event in events),
    )
    error = None
    state = start
    try:
        state = run_training_loop(
            step,
            start,
            iter(range(start, steps)),
            start=start,
            steps=steps,
            every=every,
            max_skipped=2,
            hooks=hooks,
            is_evaluated=is_evaluated,
        )
    except (Preempted, Diverged) as raised:
        error = raised
    return state, events, error


LAST = ['save 2 before its evaluation', 'suite 2', 'evaluate 2']


def test_the_last_state_is_saved_before_it_is_evaluated():
    state, events, _ = run_loop(steps=2)
    assert state == 2
    assert events == ['step 1', 'step 2', 'log 2', *LAST]


def test_metrics_are_logged_after_the_next_step_is_dispatched():
    _, events, _ = run_loop(steps=3, every=NEVER._replace(log=1))
    assert events[:5] == ['step 1', 'step 2', 'log 1', 'step 3', 'log 2']


def test_metrics_are_logged_before_an_evaluation_of_the_same_step():
    _, events, _ = run_loop(steps=4, every=NEVER._replace(log=2, evaluate=2))
    assert events[:5] == ['step 1', 'step 2', 'log 2', 'evaluate 2 unsaved', 'step 3']


def test_states_are_saved_at_intervals_and_at_given_steps():
    _, events, _ = run_loop(steps=6, every=NEVER._replace(save=4, save_steps=(1,)))
    assert [event for event in events if event.startswith('save')] == [
        'save 1',
        'save 4',
        'save 6 before its evaluation',
    ]


def test_a_resumed_run_begins_after_its_checkpoint():
    state, events, _ = run_loop(steps=6, start=4)
    assert state == 6
    assert events[:2] == ['step 5', 'step 6']


def test_a_stop_saves_waits_and_raises():
    _, events, error = run_loop(steps=6, stop_at=2)
    assert events == ['step 1', 'step 2', 'save 2 and wait']
    assert isinstance(error, Preempted)
    assert str(error) == 'stopped and saved at step 2 of 6'


def test_a_stop_in_the_last_step_leaves_its_evaluation_to_the_next_start():
    _, events, error = run_loop(steps=2, stop_at=2)
    assert events == ['step 1', 'step 2', 'log 2', 'save 2 before its evaluation and wait']
    assert str(error) == 'stopped and saved at step 2 of 2'
    state, events, error = run_loop(steps=2, start=2, is_evaluated=False)
    assert (state, error) == (2, None)
    assert events == LAST[1:]


def test_a_stop_in_an_evaluation_saves_the_state():
    every = NEVER._replace(evaluate=2, suite=2)
    _, events, error = run_loop(steps=6, every=every, stop_in='evaluate')
    assert events[2:] == [
        'suite 2 unsaved',
        'evaluate 2 unsaved',
        'save 2 before its evaluation and wait',
    ]
    assert str(error) == 'in evaluate'
    _, events, _ = run_loop(steps=6, every=every, start=2, is_evaluated=False)
    assert events[:4] == ['suite 2', 'evaluate 2', 'step 3', 'step 4']


def test_a_stop_in_an_evaluation_of_a_saved_state_saves_nothing():
    _, events, error = run_loop(steps=2, stop_in='suite')
    assert events == ['step 1', 'step 2', 'log 2', *LAST[:2]]
    assert str(error) == 'in suite'


def test_an_early_end_saves_and_runs_the_suite():
    state, events, _ = run_loop(steps=6, every=NEVER._replace(evaluate=2), finish_at=2)
    assert state == 2
    assert events == ['step 1', 'step 2', 'evaluate 2 unsaved', LAST[0], 'suite 2']
    every = NEVER._replace(evaluate=2, suite=2)
    _, events, _ = run_loop(steps=6, every=every, finish_at=2)
    assert events[2:] == ['suite 2 unsaved', 'evaluate 2 unsaved', 'save 2']
    _, events, _ = run_loop(steps=6, every=every._replace(save=2), finish_at=2)
    assert events[2:] == LAST


def test_skipped_steps_in_a_row_are_divergence():
    _, events, error = run_loop(steps=6, every=NEVER._replace(log=1), skipped=2)
    assert isinstance(error, Diverged)
    assert events == ['step 1', 'step 2', 'log 1']
