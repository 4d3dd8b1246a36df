"""Token ids to text, piece by piece; knows a tokenizer, no model."""

from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\ufffd"  # what incomplete UTF-8 is detokenized to


class Detokenizer:
    """Turn a growing row of token ids into pieces of text whose sum is the text of all ids.

    A piece is held back while its end is an incomplete UTF-8 sequence. Bytes that are no UTF-8 at all may turn what
    was returned into replacement signs afterwards; it stays as it was, and what follows is not held back.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.text = ""

    def add(self, token_id: int) -> str:
        """Add an id; return the text that is certain by now and was not returned before."""
        self.ids.append(token_id)
        whole = self._detokenized()
        return "" if whole.endswith(REPLACEMENT) else self._grow_to(whole)

    def finish(self) -> str:
        """Return what was held back."""
        return self._grow_to(self._detokenized())

    def _detokenized(self) -> str:
        return str(self.tokenizer.decode(self.ids, skip_special_tokens=True))

    def _grow_to(self, whole: str) -> str:
        piece, self.text = whole[len(self.text) :], whole
        return piece
