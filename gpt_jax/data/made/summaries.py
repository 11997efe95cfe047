"""What does this function do, in a line? Real functions of Python's library, and the first sentence of their docstring.

The summaries are real, but short (a dozen words), about code alone, and now and then no summary at all ("See above.").
A module is in one split as a whole, by the hash of its path, as in tfds:python_stdlib.
"""

from pathlib import Path

from gpt_jax.data.made import library
from gpt_jax.data.made.splits import Splits, empty

LONGEST = 440  # characters of a function
SHORTEST_SUMMARY, LONGEST_SUMMARY = 15, 160


def rows(stdlib: Path) -> Splits:
    """Rows with 'source' (the function without its docstring), 'summary', 'module', 'name'."""
    made = empty()
    for function in library.functions(stdlib):
        summary = library.first_sentence(function.doc)
        source = function.head + function.body
        if len(source) <= LONGEST and SHORTEST_SUMMARY <= len(summary) <= LONGEST_SUMMARY and summary not in source:
            about = {'module': function.module, 'name': function.name}
            made[function.split].append({'source': source, 'summary': summary, **about})
    return made
