"""What is one example of a task? Text with what is to be learned of it, before there are any tokens."""

from typing import NamedTuple


class Answer(NamedTuple):
    """Text to be gone on with: `parts` are (text, whether it is learned) in order; of a dialogue every answer is.

    references: all answers that count as right, the learned one first.
    """

    parts: tuple[tuple[str, bool], ...]
    references: tuple[str, ...]


class Classified(NamedTuple):
    """One text, or two, and the number of its class. symmetric: the two may change places (similarity)."""

    texts: tuple[str, ...]
    label: int
    symmetric: bool


class Choice(NamedTuple):
    """A context, several texts that may go on from it, and the number of the right one."""

    context: str
    choices: tuple[str, ...]
    label: int


class Labelled(NamedTuple):
    """Words in order, and the number of each one's tag."""

    words: tuple[str, ...]
    tags: tuple[int, ...]


class Preference(NamedTuple):
    """Two texts that go on from a prompt, the better one first."""

    prompt: str
    chosen: str
    rejected: str


Example = Answer | Classified | Choice | Labelled | Preference
