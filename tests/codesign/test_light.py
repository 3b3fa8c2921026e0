"""Light dataclasses are what frozen ones are, but for who insists on changing them."""

from dataclasses import FrozenInstanceError, dataclass, field, replace

import pytest

from its_proxy.codesign.light import light


@dataclass(frozen=True, slots=True)
class Heavy:
    a: int
    b: list[int] = field(default_factory=list)
    c: str = "c"
    d: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "d", self.a + 1)


@light
@dataclass(frozen=True, slots=True)
class Light:
    a: int
    b: list[int] = field(default_factory=list)
    c: str = "c"
    d: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "d", self.a + 1)


@light
@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    a: int
    b: int = 2


def test_it_is_made_and_changed_as_the_other_is():
    for kind in (Heavy, Light):
        made = kind(1, c="x")
        assert (made.a, made.b, made.c, made.d) == (1, [], "x", 2)
        assert made.b is not kind(1).b
        assert replace(made, a=5).d == 6
        assert made == kind(1, c="x") != kind(2)
    assert Named(a=1) == Named(a=1, b=2)
    assert hash(Named(a=1)) == hash(Named(a=1, b=2))


def test_what_the_other_refuses_it_refuses_but_for_a_change():
    for kind in (Heavy, Light):
        with pytest.raises(TypeError):
            kind()
        with pytest.raises((AttributeError, TypeError)):  # Python 3.11 says it in an odd way
            kind(1).e = 1
    with pytest.raises(TypeError):
        Named(1)
    with pytest.raises(FrozenInstanceError):
        Heavy(1).a = 2
    made = Light(1)
    made.a = 2
    assert made.a == 2
