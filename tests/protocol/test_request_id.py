"""Ids that clients present: harmless ones are kept, others replaced."""

import re
from random import Random

from its_proxy.protocol.request_id import new_request_id

HARMLESS = re.compile(r"[A-Za-z0-9_-]{1,64}")
CHARACTERS = "abcXYZ019_-" * 6 + ':;\r\n\0\t "{}<>%\N{CYRILLIC SMALL LETTER A}\N{LINE SEPARATOR}'


def test_an_id_never_holds_anything_that_means_something_elsewhere():
    random = Random(1)
    kept = 0
    for _ in range(5000):
        presented = "".join(random.choices(CHARACTERS, k=random.randrange(90)))
        request_id = new_request_id(presented)
        assert HARMLESS.fullmatch(request_id)
        assert (request_id == presented) is (HARMLESS.fullmatch(presented) is not None)
        kept += request_id == presented
    assert 100 < kept < 4900


def test_ids_of_our_own_differ():
    assert len({new_request_id(None) for _ in range(1000)}) == 1000
