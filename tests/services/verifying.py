"""What `verify` finds, for whoever wants to know it in a test."""

from shared.verification import Verification


class Findings(Verification):
    """Keeps what is found, and tells nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.sentences: list[str] = []

    def find(self, sentence: str) -> None:
        self.sentences.append(sentence)
