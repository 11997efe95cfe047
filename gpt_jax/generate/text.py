"""How do ids that come one by one become text, where does it end, and how much of it may be shown already?

What is given out never changes again: it stops before bytes that may yet become a character, and before a part of a
stop string that may yet become the whole of it.
"""

from collections.abc import Callable, Sequence

UNKNOWN = '\ufffd'  # what decoders write for bytes that are no character, or not one yet


class Reader:
    """Reads one text's ids.

    Attributes:
      text: what is certain of the text after the prompt; once it is stopped or closed, all of it.
      stopped: a stop string has come; `text` ends before it.

    Args:
      decode: ids to text.
      prompt: the prompt's ids.
      stops: strings that end the text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int], stops: tuple[str, ...]):
        self.text, self.stopped = '', False
        self._decode, self._stops, self._shown = decode, stops, 0
        # The window: the ids that ended at the last place where the text was whole, and those that came since. Decoded
        # together, for what an id stands for may depend on the one before. Of its text, `known` characters are taken.
        self._window = list(prompt)
        self._settled, self._known = len(self._window), len(decode(self._window))

    def add(self, id_: int) -> str:
        """Takes the next id; returns the text that has become certain with it."""
        self._window.append(id_)
        decoded = self._decode(self._window)
        whole = decoded.rstrip(UNKNOWN)
        if self.stopped or len(whole) <= self._known:
            return ''
        self._take(whole[self._known :])
        self._known = len(whole)
        if whole == decoded:
            self._window = self._window[self._settled :]
            self._settled, self._known = len(self._window), len(self._decode(self._window))
        return self._show(held_back(self.text, self._stops))

    def close(self) -> str:
        """No id follows; returns what was held back."""
        if not self.stopped:
            self._take(self._decode(self._window)[self._known :])
        return self._show(0)

    def _take(self, piece: str) -> None:
        start = max(0, len(self.text) - max(map(len, self._stops), default=0) + 1)
        self.text += piece
        found = [place for stop in self._stops if (place := self.text.find(stop, start)) >= 0]
        if found:
            self.text, self.stopped = self.text[: min(found)], True

    def _show(self, held: int) -> str:
        until = len(self.text) if self.stopped else len(self.text) - held
        piece, self._shown = self.text[self._shown : until], max(self._shown, until)
        return piece


def held_back(text: str, stops: tuple[str, ...]) -> int:
    """How many characters at the end of `text` may be the beginning of a stop string."""
    longest = max(map(len, stops), default=1) - 1
    for size in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops if len(stop) > size):
            return size
    return 0
