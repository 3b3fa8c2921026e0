"""How near a persona lies to a query: by the words that both hold, and by the taxonomy's domains."""

from collections import Counter
from collections.abc import Iterable, Mapping
from math import fsum, log, sqrt

from its_proxy.codesign import taxonomy

Vector = Mapping[str, float]


class WordSimilarity:
    """TF-IDF cosine. Words that many of `texts` hold weigh little, so "a" and "who" make nothing alike."""

    def __init__(self, texts: Iterable[str]) -> None:
        n_texts = 0
        n_holding: Counter[str] = Counter()
        for text in texts:
            n_texts += 1
            n_holding.update(set(taxonomy.words(text)))
        self._idf = {word: log((1 + n_texts) / (1 + n)) for word, n in n_holding.items()}

    def __call__(self, a: str, b: str) -> float:
        return _cosine(self._vector(a), self._vector(b))

    def _vector(self, text: str) -> Vector:
        return {word: n * self._idf.get(word, 0.0) for word, n in Counter(taxonomy.words(text)).items()}


def domain_similarity(a: str, b: str) -> float:
    """Cosine of how strongly each domain's keywords occur in both: 0 where no domain is touched by both."""
    return _cosine(taxonomy.relatedness(a), taxonomy.relatedness(b))


def _cosine(a: Vector, b: Vector) -> float:
    lengths = sqrt(fsum(value**2 for value in a.values()) * fsum(value**2 for value in b.values()))
    return fsum(value * b.get(word, 0.0) for word, value in a.items()) / lengths if lengths else 0.0
