"""Normal forms over generated values: what means the same has one form, what does not is proven different."""

from fractions import Fraction
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from its_proxy.voting.answers import Answer, normal_form, proven_different, same
from tests.examples import examples
from tests.properties.spellings import NUMBERS, readings, spelled_numbers

SOUP = st.lists(
    st.sampled_from([*"0123456789.,-+/()[]{}$%=xyAB \\", r"\frac", r"\text", r"\left", r"\right", r"\infty",
                     r"\{", r"\}", r"\sqrt", r"\pi", "^", "_", "...", r"\circ", "cm", r"\!", "12", "1/2"]),
    max_size=24,
).map("".join)  # fmt: skip


def answer(text: str) -> Answer:
    return Answer(text, normal_form(text))


@settings(max_examples=examples(120), deadline=None)
@given(readings())
def test_two_spellings_of_one_value_have_one_exact_form(reading):
    value, first, second = reading
    assert same(answer(first), answer(second)), (value, first, second)
    assert answer(first).is_exact


@settings(max_examples=examples(120), deadline=None)
@given(readings(), readings())
def test_forms_are_equal_exactly_where_the_values_are(one, other):
    (first, text, _), (second, other_text, _) = one, other
    assert same(answer(text), answer(other_text)) == (first == second), (text, other_text)
    assert proven_different(answer(text), answer(other_text)) == (first != second)


@settings(max_examples=examples(120), deadline=None)
@given(NUMBERS.flatmap(lambda value: st.tuples(st.just(value), spelled_numbers(value))))
def test_a_numbers_form_is_the_number_and_reads_as_itself(pair):
    value, text = pair
    form = normal_form(text)
    assert Fraction(form.value) == value, text
    assert normal_form(form.value) == form


@settings(max_examples=examples(120), deadline=None)
@given(NUMBERS.flatmap(lambda value: st.tuples(st.just(value), spelled_numbers(value, is_alone=False))))
def test_a_percentage_is_never_taken_for_the_number(pair):
    value, text = pair
    percent = answer(text.strip(" $").removeprefix(r"\(").removesuffix(r"\)") + r"\%")
    for number in (value, value / 100):
        assert not same(percent, answer(str(number)))
        assert not proven_different(percent, answer(str(number)))


@settings(max_examples=examples(120), deadline=None)
@given(st.lists(SOUP, min_size=3, max_size=5))
def test_sameness_of_any_texts_is_an_equivalence_and_forms_have_an_order(texts):
    answers = [answer(text) for text in texts]
    for first in answers:
        assert same(first, first)
        for second in answers:
            assert same(first, second) == same(second, first)
            assert proven_different(first, second) == proven_different(second, first)
            assert not (same(first, second) and proven_different(first, second))
            assert all(same(first, third) for third in answers if same(first, second) and same(second, third))
    forms = sorted(given.form for given in answers)
    assert all(one <= other for one, other in pairwise(forms))


@settings(max_examples=examples(120), deadline=None)
@given(SOUP)
def test_an_exact_number_read_from_any_text_reads_as_itself(text):
    form = normal_form(text)
    if form.type in ("integer", "rational"):
        assert normal_form(form.value) == form
