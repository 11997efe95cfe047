"""Dialogues about functions: answers agree with the function that was shown last."""

import ast
import re

from gpt_jax.tasks.synthetic import dialogue

ARGUMENT_QUESTIONS = ('What does it take?', 'Which arguments has it?', 'What do I pass to it?')
ERROR_QUESTIONS = ('What does it raise?', 'Which errors come from it?')


def check_arguments(function, answer):
    arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    names = [argument.arg for argument in arguments if argument.arg not in ('self', 'cls')]
    words = re.findall(r'\w+', answer.removeprefix('It takes').replace(' and ', ' '))
    assert words == (names or ['nothing'])


def check_errors(function, answer):
    statements = [node for node in ast.walk(function) if isinstance(node, ast.Raise)]
    raises = any(statement.exc is not None for statement in statements)
    assert (answer == 'It raises nothing itself.') == (not raises)


def test_answers_agree_with_the_source(small_stdlib):
    counts = {'arguments': 0, 'errors': 0, 'second function': 0}
    for rows in dialogue.make_dialogue_rows(small_stdlib).values():
        for row in rows:
            check_dialogue(row['messages'], counts)
    assert min(counts.values()) > 20


def check_dialogue(messages, counts):
    roles = [message['role'] for message in messages]
    assert roles == ['user', 'assistant'] * (len(messages) // 2)
    texts = [message['content'] for message in messages]
    function = None
    for question, answer in zip(texts[::2], texts[1::2], strict=True):
        if 'def ' in question:
            counts['second function'] += function is not None
            source, _, question = question.split('\n\n', 1)[1].rpartition('\n')
            (function,) = ast.parse(source).body
        if question in ARGUMENT_QUESTIONS:
            check_arguments(function, answer)
            counts['arguments'] += 1
        if question in ERROR_QUESTIONS and 'def ' not in ast.unparse(function.body):
            check_errors(function, answer)
            counts['errors'] += 1
